"""Accuracy and cost of one model at many patch sizes."""
