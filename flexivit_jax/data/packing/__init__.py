"""Images of any size packed into rows of patches."""
