"""Sizes of published vision transformers, Ti to G."""

from flexivit_jax.nn.encoder import Size

# As in big_vision; mu is for tests.
SIZES = {
  "mu": Size(32, 1, 128, 2),
  "Ti": Size(192, 12, 768, 3),
  "S": Size(384, 12, 1536, 6),
  "M": Size(512, 12, 2048, 8),
  "B": Size(768, 12, 3072, 12),
  "L": Size(1024, 24, 4096, 16),
  "So400m": Size(1152, 27, 4304, 16),
  "H": Size(1280, 32, 5120, 16),
  "g": Size(1408, 40, 6144, 16),
  "G": Size(1664, 48, 8192, 16),
}
