"""Preparation of data sets as ArrayRecord files."""
