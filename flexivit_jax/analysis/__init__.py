"""Looking inside a model: one file for each analysis."""
