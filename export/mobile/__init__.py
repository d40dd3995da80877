"""Files for phones and boards: one form of the model, converted and run by every format's tools."""
