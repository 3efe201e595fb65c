"""Commands: text to records, records to text."""
