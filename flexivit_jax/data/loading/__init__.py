"""Loading of examples and batches in a fixed order."""
