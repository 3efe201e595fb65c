"""A config file and overrides to frozen objects, and back."""
