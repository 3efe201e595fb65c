"""Backbones, their sizes and costs."""
