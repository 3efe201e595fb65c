"""State, step, optimiser and devices of training; knows no model or task."""
