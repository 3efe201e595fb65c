"""From files to batches; no model, task or device."""
