"""report.html: one file that opens without a network."""
