from flexivit_jax.core.text import align, format_bytes


def test_bytes_have_the_unit_that_fits():
  counts = (0, 1023, 1024, 1536, 2**20 - 1, 2**20, 5 * 2**29, 2**42)
  assert [format_bytes(n) for n in counts] == [
    "0 bytes",
    "1023 bytes",
    "1.0 KiB",
    "1.5 KiB",
    "1024.0 KiB",
    "1.0 MiB",
    "2.5 GiB",
    "4096.0 GiB",
  ]


def test_columns_are_as_wide_as_their_widest_cell():
  rows = [("patch", "tokens"), ("4", "36"), ("128x128", "4")]
  assert align(rows).split("\n") == [
    "  patch  tokens",
    "      4      36",
    "128x128       4",
  ]
