"""Attention kernels. Arrays only: no modules, no parameters."""
