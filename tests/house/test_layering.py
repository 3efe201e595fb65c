"""Rooms of the package: imports go down only, heavy modules stay out."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "flexivit_jax"

# The rooms that each room may import from, from the ground up.
CORE = {"core"}
DEVICES = CORE | {"devices"}
NN = DEVICES | {"attention"}
MODELS = NN | {"nn"}
TASKS = MODELS | {"models"}
CONFIG = TASKS | {"tasks", "data", "training"}
CHECKPOINTS = CONFIG - {"training"} | {"config"}
EVALUATION = CHECKPOINTS | {"checkpoints"}
MAY_IMPORT = {
  "core": set(),
  "devices": CORE,
  "data": CORE,
  "attention": DEVICES,
  "training": DEVICES,
  "nn": NN,
  "models": MODELS,
  "tasks": TASKS,
  "config": CONFIG,
  "checkpoints": CHECKPOINTS,
  "evaluation": EVALUATION,
  "analysis": EVALUATION | {"evaluation"},
  "run": EVALUATION | {"evaluation", "training"},
  "cli": EVALUATION | {"evaluation", "training", "analysis", "run"},
}
DOORS = {"__init__", "__main__"}

# Third-party packages, by room or file.
LIGHT = {"numpy", "jax"}
ONLY = {
  "core": LIGHT,
  "attention": LIGHT,
  "devices": LIGHT,
  "checkpoints/serving.py": LIGHT,
}
NEVER = {
  "data": {"flax", "optax"},
  "training": {"flax"},
  "checkpoints/atomic.py": {"flax"},
  "checkpoints/manifest.py": {"flax"},
  "checkpoints/npz.py": {"flax"},
  "checkpoints/safetensors.py": {"flax"},
  "checkpoints/download.py": {"flax"},
}

FILES = sorted(
  p.relative_to(PACKAGE).as_posix()
  for p in PACKAGE.rglob("*.py")
  if p.stem != "__init__"
)


def _imports(text, name=""):
  """Modules and names that a file imports, fully named."""
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{name}: relative import"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _faults(name, text):
  """Imports that a file of the package must not have."""
  room = name.split("/")[0]
  for module in _imports(text, name):
    top, *rest = module.split(".")
    if top == "flexivit_jax":
      if rest[0] != room and rest[0] not in MAY_IMPORT[room]:
        yield module
    elif top not in sys.stdlib_module_names:
      only = ONLY.get(name, ONLY.get(room))
      never = NEVER.get(name, NEVER.get(room, set()))
      if top in never or (only is not None and top not in only):
        yield module


@pytest.mark.parametrize("name", [n for n in FILES if "/" in n])
def test_a_file_imports_what_its_room_may(name):
  assert not list(_faults(name, (PACKAGE / name).read_text()))


def test_no_module_is_loose_but_the_doors():
  loose = {p.stem for p in PACKAGE.glob("*.py")}
  assert loose <= DOORS
  rooms = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()}
  assert rooms == MAY_IMPORT.keys()


@pytest.mark.parametrize(
  ("name", "line"),
  [
    ("data/x.py", "from flexivit_jax.nn import block"),
    ("core/x.py", "import flexivit_jax.config.build"),
    ("evaluation/x.py", "from flexivit_jax.training import step"),
    ("core/x.py", "import flax"),
    ("training/x.py", "from flax import linen"),
  ],
)
def test_the_check_sees_a_forbidden_import(name, line):
  assert list(_faults(name, line))


@pytest.mark.parametrize("name", [*FILES, "../train.py", "../evaluate.py"])
def test_no_private_jax_and_no_tensorflow(name):
  for module in _imports((PACKAGE / name).read_text()):
    assert not module.startswith(("jax._src", "jax.core"))
    assert module.split(".")[0] != "tensorflow"


@pytest.mark.parametrize(
  ("code", "heavy"),
  [
    ("import train, evaluate", {"tensorflow"}),
    ("import flexivit_jax", {"jax", "numpy", "flax"}),
  ],
)
def test_imports_bring_in_nothing_heavy(code, heavy):
  code = f"import sys; {code}; assert not {heavy} & set(sys.modules)"
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)  # noqa: S603
