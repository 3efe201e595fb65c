"""Learning tasks: losses, heads, own parameters."""
