"""Config files: which one, what it raises, its argument, values it may hold."""

import pathlib
import re

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
  return str(caught.value)


def test_a_missing_file_lists_those_there(tmp_path):
  (tmp_path / "one.py").touch()
  (tmp_path / "two.py").touch()
  (tmp_path / "__init__.py").touch()
  (tmp_path / "notes.txt").touch()
  there = f"in {tmp_path}: one.py, two.py"
  assert refusal(tmp_path / "six.py:8") == (
    f"no config file {tmp_path / 'six.py'}; {there}"
  )
  hint = f"(did you mean {tmp_path / 'two.py'}?)"
  for name in ("twoo.py", "two", "Two.py"):
    assert refusal(tmp_path / name) == (
      f"no config file {tmp_path / name} {hint}; {there}"
    )
  assert refusal(tmp_path) == f"{tmp_path} is a directory; {there}"
  assert refusal(tmp_path / "notes.txt") == (
    f"{tmp_path / 'notes.txt'} is no Python file; {there}"
  )


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
  assert refusal("configs") == f"configs is a directory; in configs: {names}"


def test_no_config_file_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert refusal("a/b.py") == "no config file a/b.py; in a: none"


def test_of_many_files_some_are_listed(tmp_path):
  for i in range(200):
    (tmp_path / f"recipe_number_{i:03}.py").touch()
  message = refusal(tmp_path / "zzz.py")
  assert message.endswith("recipe_number_014.py and 185 more")
  assert len(message) <= 600


def test_a_name_that_no_file_can_have():
  name = "x" * 5000
  assert refusal(name) == f"no config file {'x' * 97}...: File name too long"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (
      "config = {}",
      " has no function get_config: define get_config() that returns a "
      "ConfigDict",
    ),
    (
      "get_config = {}",
      " has no function get_config, but a dict: define get_config() that "
      "returns a ConfigDict",
    ),
    (
      "def get_config():\n  config = {}",
      ": get_config returns None: expected a ConfigDict",
    ),
    (
      "def get_config(): return [1]",
      ": get_config returns [1]: expected a ConfigDict",
    ),
    (
      "def get_config(a, b): pass",
      ": get_config(a, b) cannot be called with 0 arguments: --config "
      "FILE:VALUE gives one, FILE none",
    ),
    (
      "def get_config(path: str): pass",
      " needs its path: --config {path}:PATH",
    ),
    # What the file itself raises, at the innermost line of its own.
    (
      "import math\n\nx = foo",
      ", line 3: NameError: name 'foo' is not defined",
    ),
    ("x = (\n", ", line 1: SyntaxError: '(' was never closed"),
    (
      "import not_there",
      ", line 1: ModuleNotFoundError: No module named 'not_there'",
    ),
    (
      "import json\ndef get_config():\n  return json.loads('{')",
      ", line 3: JSONDecodeError: Expecting property name enclosed in double "
      "quotes: line 1 column 2 (char 1)",
    ),
    ("def get_config(): raise KeyError", ", line 1: KeyError"),
    ("def get_config(): return get_config()", ", line 1: RecursionError: "),
    ("raise ValueError('x' * 5000)", f", line 1: ValueError: {'x' * 297}..."),
    ("raise ValueError('two\\nlines')", ", line 1: ValueError: two lines"),
    (
      "from flexivit_jax.core.errors import Fault\n"
      "raise Fault('cannot download it: no network\\nfetch it by hand')",
      ", line 2: cannot download it: no network; fetch it by hand",
    ),
    (
      "from ml_collections import ConfigDict\n"
      "def get_config():\n"
      "  config = ConfigDict(dict(seed=1))\n"
      "  return config.sed\n",
      ", line 4: AttributeError: ",
    ),
  ],
)
def test_a_file_that_cannot_be_used(tmp_path, text, message):
  path = write(tmp_path, text)
  told, expected = refusal(path), path + message.format(path=path)
  # Python's own text varies where it is left out.
  assert told == expected or (message.endswith(": ") and expected in told)
  assert len(told) - len(path) <= 600


def test_a_mistake_in_a_file_that_the_config_imports(tmp_path, monkeypatch):
  (tmp_path / "broken_base.py").write_text("x = 1\ny = (\n")
  monkeypatch.syspath_prepend(tmp_path)
  path = write(tmp_path, "import math\nimport broken_base")
  assert refusal(path) == (
    f"{path}, line 2: SyntaxError: '(' was never closed (broken_base.py, "
    "line 2)"
  )


@pytest.mark.parametrize(
  ("get_config", "message"),
  [
    (
      "def get_config(): return {}",
      " takes no argument, but was given 'eight'",
    ),
    (
      "def get_config(argument): return int(argument)",
      ", line 1: ValueError: invalid literal for int() with base 10: 'eight'",
    ),
  ],
)
def test_an_argument_that_the_config_does_not_take(
  tmp_path, get_config, message
):
  path = write(tmp_path, get_config)
  assert refusal(f"{path}:eight") == path + message


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
    (
      "config.model.kernel_hw = (batch_size, batch_size)",
      "model.kernel_hw",
      (8, 8),
    ),
    (
      "config.total_epochs = config_dict.placeholder(float)",
      "total_epochs",
      None,
    ),
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
  with pytest.raises(ConfigError, match=r"^config(\.|: )batch_size "):
    load_with(tmp_path, line)
  # The file's own mistake comes first: a default could not be reached.
  with pytest.raises(ConfigError, match=r"^config(\.|: )batch_size "):
    load_with(tmp_path, line, "task.loss.name=sigmoid")


@pytest.mark.parametrize(
  ("line", "message"),
  [
    (
      "config.patch_size = dict(name='sampled', choices={4, 6})",
      "config.patch_size.choices is {4, 6}: expected a tuple; give (4, 6)",
    ),
    (
      "config.patch_size = dict(name='sampled', choices=range(4, 6))",
      "config.patch_size.choices is range(4, 6): expected a tuple; give (4, 5)",
    ),
    (
      "config.model.dropout = float('nan')",
      "config.model.dropout is nan: give a finite number",
    ),
    (
      "config.model.head_bias = np.float32('-inf')",
      "config.model.head_bias is -inf: give a finite number",
    ),
    (
      "config.seed = 10**5000",
      "config.seed is a number of thousands of digits: give at most "
      "9223372036854775807",
    ),
    (
      "config.model.dtype = 10**5000",
      "config.model.dtype is a number of thousands of digits: expected a text, "
      "got int",
    ),
    (
      "config.model.head_bias = '-1e1'",
      "config.model.head_bias is '-1e1': expected a number, got str; "
      "give -10.0",
    ),
    (
      "zero = FieldReference(1); config.seed = 8 // zero; zero.set(0)",
      "config.seed: ZeroDivisionError: integer division or modulo by zero",
    ),
    (
      "config = config.to_dict(); config['model'] = config",
      "config contains itself",
    ),
  ],
)
def test_values_that_a_config_may_not_hold(tmp_path, line, message):
  with pytest.raises(ConfigError) as caught:
    load_with(tmp_path, line)
  assert str(caught.value) == message


def test_a_function_is_no_value(tmp_path):
  with pytest.raises(ConfigError) as caught:
    load_with(tmp_path, "config.seed = lambda: 3")
  assert re.fullmatch(
    r"config\.seed is <function .*>: expected a whole number, got function",
    str(caught.value),
  )
