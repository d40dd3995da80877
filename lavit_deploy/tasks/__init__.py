"""What a model's outputs mean: how they are read, compared with the reference, and answered."""
