"""Looking inside: numbers and figures of resizes, weights and attention."""
