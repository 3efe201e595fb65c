"""Linear classifiers of frozen features."""
