"""Int8: calibration pictures, one scheme, its graphs, and whether they still predict the same."""
