"""One training step: state, gradients, optimiser."""
