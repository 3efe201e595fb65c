"""What a training step would cost on many devices, before there are any."""
