"""Softmax attention on arrays, and its distribution over devices."""
