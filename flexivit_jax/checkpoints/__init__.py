"""Everything on disk: bytes, arrays, models, other programs' files."""
