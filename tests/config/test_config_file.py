"""Config files: which one, what it raises, its argument, values it may hold."""

import pathlib

import pytest

from flexivit_jax.config import build, file
from flexivit_jax.core import patch_size
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.core.text import listed

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def write(folder, text):
  path = folder / "some_config.py"
  path.write_text(text)
  return str(path)


def refusal(path):
  with pytest.raises(ConfigError) as caught:
    file.read(str(path))
  assert len(str(caught.value)) - len(str(path)) <= 600
  return str(caught.value)


def test_a_missing_file_lists_those_there(tmp_path):
  for name in ("one.py", "two.py", "__init__.py", "notes.txt"):
    (tmp_path / name).touch()
  there = f"in {tmp_path}: one.py, two.py"
  hint = f"(did you mean {tmp_path / 'two.py'}?)"
  for name, what in {
    "six.py:8": f"no config file {tmp_path / 'six.py'}",
    "twoo.py": f"no config file {tmp_path / 'twoo.py'} {hint}",
    "two": f"no config file {tmp_path / 'two'} {hint}",
    "Two.py": f"no config file {tmp_path / 'Two.py'} {hint}",
    "": f"{tmp_path} is a directory",
    "notes.txt": f"{tmp_path / 'notes.txt'} is no Python file",
  }.items():
    assert refusal(tmp_path / name) == f"{what}; {there}"


def test_without_config_files_there_the_projects_are_listed(monkeypatch):
  monkeypatch.chdir(CONFIGS.parent)
  names = listed(path.name for path in sorted(CONFIGS.glob("[!_]*.py")))
  assert "_recipe.py" not in names
  hint = "(did you mean configs/vit_digits.py?)"
  # Beside the commands lie no configs, whatever else lies there.
  for path in ("vit_digits", "nowhere/vit_digits.py", "docs/vit_digit.py"):
    assert refusal(path) == (
      f"no config file {path} {hint}; in configs: {names}"
    )
  assert refusal("") == f"no config file; in configs: {names}"


def test_no_config_file_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert refusal("a/b.py") == "no config file a/b.py; in a: none"
  assert refusal("x" * 5000).endswith(": File name too long")


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("config = {}", "has no function get_config"),
    ("get_config = {}", "has no function get_config"),
    ("def get_config(): return [1]", "get_config returns [1]: expected a Conf"),
    ("def get_config(a, b): pass", "cannot be called with 0 arguments"),
    ("def get_config(path: str): pass", "needs its path: --config {path}:PATH"),
    # What the file itself raises, at the innermost line of its own.
    ("import math\n\nx = foo", "{path}, line 3: NameError: name 'foo' is not"),
    ("x = (\n", "{path}, line 1: SyntaxError: '(' was never closed"),
    ("import not_there", "{path}, line 1: ModuleNotFoundError: No module na"),
    (
      "import json\ndef get_config():\n  return json.loads('{')",
      "{path}, line 3: JSONDecodeError: Expecting property name",
    ),
    ("def get_config(): raise KeyError", "{path}, line 1: KeyError"),
    ("def get_config(): return get_config()", "{path}, line 1: RecursionErro"),
    ("raise ValueError('x' * 5000)", f"line 1: ValueError: {'x' * 297}..."),
    ("raise ValueError('two\\nlines')", "line 1: ValueError: two lines"),
    (
      "from flexivit_jax.core.errors import Fault\n"
      "raise Fault('cannot download it: no network\\nfetch it by hand')",
      "{path}, line 2: cannot download it: no network; fetch it by hand",
    ),
    (
      "from ml_collections import ConfigDict\n"
      "def get_config():\n"
      "  return ConfigDict(dict(seed=1)).sed\n",
      "{path}, line 3: AttributeError: ",
    ),
    (
      "import math\nimport broken_base",
      "{path}, line 2: SyntaxError: '(' was never closed (broken_base.py, ",
    ),
  ],
)
def test_a_file_that_cannot_be_used(tmp_path, monkeypatch, text, message):
  (tmp_path / "broken_base.py").write_text("x = 1\ny = (\n")
  monkeypatch.syspath_prepend(tmp_path)
  path = write(tmp_path, text)
  assert message.format(path=path) in refusal(path)


@pytest.mark.parametrize(
  ("get_config", "message"),
  [
    ("get_config(): return {}", ": get_config() cannot be called with 1 arg"),
    ("get_config(n): return int(n)", ", line 1: ValueError: invalid literal"),
  ],
)
def test_an_argument_that_the_config_does_not_take(
  tmp_path, get_config, message
):
  path = write(tmp_path, f"def {get_config}")
  assert refusal(f"{path}:eight").startswith(path + message)


def test_the_argument_after_the_colon_reaches_the_config():
  path = str(CONFIGS / "vit_digits.py")
  assert build.load(path).patch_size == patch_size.FixedPatchSize(6)
  assert build.load(path + ":8").patch_size == patch_size.FixedPatchSize(8)


HEADER = """
import numpy as np
from ml_collections import ConfigDict, FieldReference, config_dict

def get_config():
  batch_size = FieldReference(8)
  config = ConfigDict(dict(
    model=dict(size="mu", position="none", pool="gap"),
    patch_size=dict(name="fixed", size=4),
    optimizer=dict(name="adamw", learning_rate=1e-3),
    train=dict(source="digits"),
    batch_size=batch_size,
    total_steps=10,
  ))
"""


def load_with(folder, line, *overrides):
  path = write(folder, f"{HEADER}  {line}\n  return config\n")
  return build.load(path, overrides)


@pytest.mark.parametrize(
  ("line", "name", "expected"),
  [
    ("config.model.kernel_hw = [8, 6]", "model.kernel_hw", (8, 6)),
    ("config.seed = np.int64(3)", "seed", 3),
    ("config.model.kernel_hw = np.array([8, 6])", "model.kernel_hw", (8, 6)),
    ("config.model.dropout = np.float32(0.5)", "model.dropout", 0.5),
    ("config.model.scan = np.bool_(True)", "model.scan", True),
    ("config.eval_batch_size = 2 * batch_size", "eval_batch_size", 16),
    ("config.model.kernel_hw = (batch_size,) * 2", "model.kernel_hw", (8, 8)),
    ("config.ema = config_dict.placeholder(float)", "ema", None),
    ("config = config_dict.FrozenConfigDict(config)", "batch_size", 8),
    ("config = config.to_dict()", "batch_size", 8),
  ],
)
def test_values_that_a_config_may_hold(tmp_path, line, name, expected):
  value = load_with(tmp_path, line)
  for part in name.split("."):
    value = getattr(value, part)
  assert value == expected
  assert type(value) is type(expected)


@pytest.mark.parametrize(
  "line",
  [
    "config.batch_size = config_dict.placeholder(int)",
    "config.batch_size = config_dict.required_placeholder(int)",
    "del config.batch_size",
  ],
)
def test_an_override_fills_what_the_file_leaves_open(tmp_path, line):
  assert load_with(tmp_path, line, "batch_size=16").batch_size == 16
  # The file's own mistake comes first: a default could not be reached.
  for overrides in ((), ("task.loss.name=sigmoid",)):
    with pytest.raises(ConfigError, match=r"^config(\.|: )batch_size "):
      load_with(tmp_path, line, *overrides)


@pytest.mark.parametrize(
  ("line", "message"),
  [
    (
      "config.patch_size = dict(name='sampled', choices={4, 6})",
      "config.patch_size.choices is {4, 6}: expected a tuple",
    ),
    (
      "config.model.dropout = float('nan')",
      "config.model.dropout is nan: give",
    ),
    (
      "config.seed = 10**5000",
      "config.seed is a number of thousands of digits",
    ),
    ("config.model.dtype = 10**5000", "config.model.dtype is a number of thou"),
    (
      "config.model.head_bias = '-1e1'",
      "expected a number, got str; give -10.",
    ),
    (
      "zero = FieldReference(1); config.seed = 8 // zero; zero.set(0)",
      "config.seed: ZeroDivisionError: integer division or modulo by zero",
    ),
    ("config.seed = lambda: 3", "expected a whole number, got function"),
  ],
)
def test_values_that_a_config_may_not_hold(tmp_path, line, message):
  with pytest.raises(ConfigError) as caught:
    load_with(tmp_path, line)
  assert message in str(caught.value)
