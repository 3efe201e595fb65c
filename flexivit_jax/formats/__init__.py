"""What checkpoints call their arrays, and how to make them ours and back."""
