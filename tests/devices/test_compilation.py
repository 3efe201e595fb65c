import jax
import jax.numpy as jnp

from flexivit_jax.core.tokens import patchify
from flexivit_jax.devices import compilation


def test_each_patch_size_is_traced_once_and_never_again():
  traces, lines = [], []

  def tokens_of(images, *, patch_hw):
    traces.append(patch_hw)
    return patchify(images, patch_hw).patches.sum(axis=-1)

  sizes = [(4, 4), (8, 8), (2, 4)]
  images = jnp.ones((2, 8, 8, 1))
  compiled = compilation.compile_sizes(
    tokens_of,
    sizes,
    arguments=(jax.ShapeDtypeStruct(images.shape, images.dtype),),
    jit_options={},
    report=lines.append,
    what="tokens",
  )
  assert traces == sizes
  for size in (*sizes, *reversed(sizes)):
    out = compiled[size](images)
    assert out.shape[1] == 64 // (size[0] * size[1])
  assert traces == sizes
  assert [line.split(",")[0] for line in lines] == [
    "compiled tokens 1/3: 4x4 patches",
    "compiled tokens 2/3: 8x8 patches",
    "compiled tokens 3/3: 2x4 patches",
  ]


def test_cache_directory_of_the_user_is_respected(monkeypatch, tmp_path):
  before = jax.config.jax_compilation_cache_dir
  try:
    jax.config.update("jax_compilation_cache_dir", "/somewhere/else")
    compilation.enable_persistent_cache()
    assert jax.config.jax_compilation_cache_dir == "/somewhere/else"
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation.enable_persistent_cache()
    expected = str(tmp_path / "flexivit_jax" / "xla")
    assert jax.config.jax_compilation_cache_dir == expected
  finally:
    jax.config.update("jax_compilation_cache_dir", before)


def test_bytes_by_the_compilers_plan():
  x = jnp.ones((64, 64))
  compiled, seconds = compilation.timed(lambda x: x @ x, (x,), {})
  assert seconds > 0
  assert compilation.peak_bytes(compiled) >= 2 * x.nbytes
  donated, _ = compilation.timed(lambda x: x + 1, (x,), {"donate_argnums": 0})
  assert compilation.peak_bytes(donated) < 2 * x.nbytes


def test_seconds_that_the_cache_saved_are_counted_while_asked_for():
  event = "/jax/compilation_cache/compile_time_saved_sec"
  with compilation.counting_saved_seconds() as saved:
    jax.monitoring.record_event_duration_secs(event, 2.0)
    jax.monitoring.record_event_duration_secs("/another", 5.0)
    jax.monitoring.record_event_duration_secs(event, 0.5)
    assert saved() == 2.5
  jax.monitoring.record_event_duration_secs(event, 9.0)
  assert saved() == 2.5
