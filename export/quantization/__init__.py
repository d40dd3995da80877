"""Int8: calibration pictures, one recipe, its graphs, and whether they still predict the same."""
