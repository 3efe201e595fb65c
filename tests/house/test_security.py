"""Data is never run: no code from files, no shell, no unpacking anywhere."""

import ast
import pathlib

import numpy as np
import pytest
from PIL import Image

from flexivit_jax.data.sources import image_folder

ROOT = pathlib.Path(__file__).parents[2]
CODE = ("*.py", "flexivit_jax/**/*.py", "configs/**/*.py", "benchmarks/**/*.py")

# Loading what one of these wrote runs what the writer liked.
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
RUNS = {"eval", "exec", "compile"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput"}
# Of our own making only, and what is loaded was made just before.
TESTS_MAY = {"pickle", "exec", "numpy.load"}


def _keyword(call, name):
  """Source text of a keyword argument; None without it."""
  for keyword in call.keywords:
    if keyword.arg == name:
      return ast.unparse(keyword.value)
  return None


def _imports(tree):
  """What each imported name stands for, such as np: numpy."""
  names = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        top = alias.name.partition(".")[0]
        names[alias.asname or top] = alias.name if alias.asname else top
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
  return names


def _full_name(node, names):
  """numpy.load for np.load; for an attribute of anything else, .load."""
  if isinstance(node, ast.Name):
    return names.get(node.id, node.id)
  if isinstance(node, ast.Attribute):
    inside = _full_name(node.value, names)
    return f"{inside}.{node.attr}"
  return ""


def _broken_by_call(call, names):
  name = _full_name(call.func, names)
  last = name.rpartition(".")[2]
  if name in ("importlib.import_module", "__import__") and call.args:
    module = ast.unparse(call.args[0]).strip("'\"").partition(".")[0]
    if module in PICKLES:
      yield "pickle"
  if name == "torch.load":
    yield "torch.load"
  if name in ("yaml.unsafe_load", "yaml.full_load"):
    yield "yaml.load"
  if name in ("yaml.load", "yaml.load_all"):
    if not (_keyword(call, "Loader") or "").endswith("SafeLoader"):
      yield "yaml.load"
  if name == "numpy.load" and _keyword(call, "allow_pickle") is None:
    yield "numpy.load"
  if _keyword(call, "allow_pickle") not in (None, "False"):
    yield "allow_pickle"
  if name in SHELLS or _keyword(call, "shell") not in (None, "False"):
    yield "shell"
  if last in ("extractall", "unpack_archive"):
    if _keyword(call, "filter") != "'data'":
      yield "extractall"


def broken_rules(source):
  """The rules that Python code breaks, sorted."""
  tree = ast.parse(source)
  names = _imports(tree)
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      modules = {alias.name.partition(".")[0] for alias in node.names}
      found |= {"pickle"} if modules & PICKLES else set()
    elif isinstance(node, ast.ImportFrom):
      module = (node.module or "").partition(".")[0]
      found |= {"pickle"} if module in PICKLES else set()
    elif isinstance(node, ast.Call):
      found |= set(_broken_by_call(node, names))
    # Not only called: map(eval, texts).
    if isinstance(node, ast.Name | ast.Attribute):
      name = _full_name(node, names).removeprefix("builtins.")
      found |= {name} & RUNS
  return sorted(found)


@pytest.mark.parametrize(
  ("source", "rule"),
  [
    ("import pickle", "pickle"),
    ("from marshal import loads", "pickle"),
    ("def f():\n  import joblib.numpy_pickle", "pickle"),
    ("import importlib\nimportlib.import_module('pickle')", "pickle"),
    ("__import__('cloudpickle.fast')", "pickle"),
    ("import torch\ntorch.load(p)", "torch.load"),
    ("from torch import load as l\nl(p)", "torch.load"),
    ("import yaml\nyaml.load(f, Loader=yaml.FullLoader)", "yaml.load"),
    ("list(map(eval, texts))", "eval"),
    ("from builtins import exec as run\nrun(text)", "exec"),
    ("code = compile(text, 'f', 'exec')", "compile"),
    ("from numpy import load\nload(p)", "numpy.load"),
    ("import numpy\nnumpy.load(p, allow_pickle=True)", "allow_pickle"),
    ("np.lib.format.read_array(f, allow_pickle=trusted)", "allow_pickle"),
    ("from subprocess import Popen\nPopen(x, shell=1)", "shell"),
    ("import os\nos.system('ls')", "shell"),
    ("import tarfile\ntarfile.open(p).extractall(d)", "extractall"),
    ("import shutil\nshutil.unpack_archive(p, d)", "extractall"),
  ],
)
def test_each_rule_sees_what_breaks_it(source, rule):
  assert broken_rules(source) == [rule]


@pytest.mark.parametrize(
  "source",
  [
    "import ast\nast.literal_eval(text)",
    # A config is code, and the README says so.
    "spec.loader.exec_module(module)",
    "re.compile(pattern); jax.jit(f).lower(x).compile(); model.eval()",
    "import numpy as np\nnp.load(p, allow_pickle=False)",
    "import yaml\nyaml.load(f, Loader=yaml.CSafeLoader)",
    "import subprocess\nsubprocess.run(['git', 'log'], shell=False)",
    "tar.extractall(d, filter='data')",
    "text = 'import pickle; eval(1)'  # torch.load",
  ],
)
def test_no_rule_sees_what_breaks_none(source):
  assert broken_rules(source) == []


def test_no_file_breaks_a_rule():
  code = sorted(path for pattern in CODE for path in ROOT.glob(pattern))
  assert {ROOT / "train.py", ROOT / "flexivit_jax/config/build.py"} <= set(code)
  tests = sorted(ROOT.glob("tests/**/*.py"))
  assert pathlib.Path(__file__) in tests
  found = {}
  for path in [*code, *tests]:
    broken = set(broken_rules(path.read_text("utf-8")))
    broken -= TESTS_MAY if path in tests else set()
    if broken:
      found[str(path.relative_to(ROOT))] = sorted(broken)
  assert found == {}


HOSTILE = (
  *("$(touch made)", "..%2Fevil", "...", "--config=x", "; touch made;"),
  *("`touch made`", "a b", "line\nbreak", "naïve 猫", "~"),
)


def test_class_names_are_never_paths_or_commands(tmp_path, monkeypatch):
  data = tmp_path / "data"
  for number, name in enumerate(sorted(HOSTILE)):
    folder = data / "train" / name
    folder.mkdir(parents=True)
    colour = (20 * number, 0, 0)
    Image.new("RGB", (2, 2), colour).save(folder / "$(touch made) 1.png")
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  monkeypatch.chdir(elsewhere)
  before = sorted(tmp_path.rglob("*"))
  source = image_folder.ImageFolder(str(data)).open()
  # A name that starts with a dot is a hidden folder, not a class.
  visible = sorted(name for name in HOSTILE if not name.startswith("."))
  assert list(source.classes) == visible
  reds = [int(source.image(i)[0, 0, 0]) for i in range(len(source))]
  labels = [source.classes[source.label(i)] for i in range(len(source))]
  numbers = {name: number for number, name in enumerate(sorted(HOSTILE))}
  assert reds == [20 * numbers[name] for name in labels]
  assert np.unique(labels).tolist() == visible
  assert sorted(tmp_path.rglob("*")) == before
