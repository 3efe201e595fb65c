"""Accuracy and cost of one model at many settings."""
