"""Decoding and transforms of pixels."""
