"""Data is never run: no pickles in arrays, no class name as a path or command.

Ruff's rules S, checked by test_hygiene.py, see other pickles, eval and shells.
"""

import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from flexivit_jax.data.sources import image_folder

ROOT = pathlib.Path(__file__).parents[2]
CODE = ("*.py", "flexivit_jax/**/*.py", "configs/**/*.py", "benchmarks/**/*.py")
# Loading arrays or weights of others with these would run their code.
UNSAFE = r"allow_pickle\s*=\s*(?!False)|torch\.load|unpack_archive"


@pytest.mark.parametrize(
  ("code", "is_unsafe"),
  [
    ("np.load(p, allow_pickle=True)", True),
    ("read_array(f, allow_pickle=trusted)", True),
    ("torch.load(p)", True),
    ("np.load(p, allow_pickle=False)", False),
  ],
)
def test_the_pattern_sees_what_is_unsafe(code, is_unsafe):
  assert bool(re.search(UNSAFE, code)) == is_unsafe


def test_no_file_loads_what_would_be_run():
  code = sorted(path for pattern in CODE for path in ROOT.glob(pattern))
  assert {ROOT / "train.py", ROOT / "flexivit_jax/config/build.py"} <= set(code)
  found = [x for x in code if re.search(UNSAFE, x.read_text("utf-8"))]
  assert found == []


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
