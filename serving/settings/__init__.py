"""What the operator decides: options, environment, files and the models to serve."""
