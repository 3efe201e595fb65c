"""Convolutional stems before the patch embedding."""
