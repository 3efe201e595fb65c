"""One training run, from an experiment to its end."""
