"""The model. Modules declare parameters and call pure functions."""
