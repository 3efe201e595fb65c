"""Imports go down only, heavy and private modules stay out."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "flexivit_jax"

# From the top to the bottom; a module imports from its own layer or below.
LAYERS = (
  "cli",
  "preparation",
  "run",
  "run_data",
  "run_numbers",
  "teaching",
  "exporting",
  "saving",
  "pretrained",
  "preprocessing",
  "prediction",
  "loaded",
  "record",
  "config",
  "choices",
  "overrides",
  "config_file",
  "experiment",
  "analysis",
  "planning",
  "evaluation",
  "tasks",
  "formats",
  "nn",
  "training",
  "serving",
  "checkpoints",
  "data",
  "attention",
  "core",
)

# Third-party packages that a layer may import, where that is restricted.
ALLOWED = {
  "serving": {"numpy", "jax"},
  "core": {"numpy", "jax"},
  "attention": {"numpy", "jax"},
}
NEVER_IN = {
  "checkpoints": {"flax"},
  "data": {"flax", "optax"},
  "training": {"flax"},
}


def _imports(path):
  """Modules that a file imports, fully named."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      yield node.module
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _layer(module):
  parts = module.split(".")
  return parts[1] if len(parts) > 1 and parts[0] == "flexivit_jax" else None


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE)
FILES += sorted(p for p in PACKAGE.glob("*.py") if p.stem != "__init__")


def _own_layer(path):
  return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize(
  "path", FILES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_go_down_only(path):
  own = _own_layer(path)
  assert own in LAYERS, f"{own} has no place in LAYERS"
  for module in _imports(path):
    layer = _layer(module)
    if layer in LAYERS:
      assert LAYERS.index(layer) >= LAYERS.index(own), f"{path}: {module}"
    third_party = module.split(".")[0]
    if third_party in sys.stdlib_module_names or layer is not None:
      continue
    if third_party != "flexivit_jax":
      allowed = ALLOWED.get(own)
      assert allowed is None or third_party in allowed, f"{path}: {module}"
      assert third_party not in NEVER_IN.get(own, ()), f"{path}: {module}"


def test_the_check_sees_an_import_that_goes_up(tmp_path):
  bad = tmp_path / "bad.py"
  bad.write_text("from flexivit_jax.nn import vit\nimport flexivit_jax.config")
  layers = [_layer(m) for m in _imports(bad)]
  assert layers == ["nn", "nn", "config"]
  assert LAYERS.index("nn") < LAYERS.index("data")


@pytest.mark.parametrize(
  "path",
  [*FILES, ROOT / "train.py", ROOT / "evaluate.py"],
  ids=lambda p: p.name,
)
def test_no_private_jax_and_no_tensorflow(path):
  for module in _imports(path):
    assert not module.startswith(("jax._src", "jax.core", "tensorflow."))
    assert module != "tensorflow"


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_commands_do_not_import_tensorflow(command):
  code = f"import sys, {command}; assert 'tensorflow' not in sys.modules"
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)  # noqa: S603


def test_importing_the_package_imports_nothing_heavy():
  code = (
    "import sys, flexivit_jax; "
    "assert not {'jax', 'numpy', 'flax'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)  # noqa: S603
