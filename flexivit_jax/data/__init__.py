"""From files to `Batch`. Knows no model, task or device mesh."""
