"""Memory, traffic and time of a step on many devices."""
