"""Command-line modules: thin mains."""
