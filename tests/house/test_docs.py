"""Texts: links, code and paths in them; notebooks as they are stored."""

import os
import pathlib
import re
import sys

import nbformat
import numpy as np
import pytest
from nbclient.exceptions import CellExecutionError

from notebooks import execute

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 1.5 * 2**20

every_notebook = pytest.mark.parametrize(
  "path", NOTEBOOKS, ids=lambda p: p.stem
)


def test_there_are_four():
  assert [path.stem for path in NOTEBOOKS] == [
    "attention_distance",
    "one_checkpoint_many_patch_sizes",
    "packing",
    "resize_matrices",
  ]


def broken_links(notebook, directory):
  """Relative links of markdown cells that lead nowhere."""
  text = "\n".join(
    x.source for x in notebook.cells if x.cell_type == "markdown"
  )
  links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text)
  local = [link for link in links if not link.startswith(("http", "mailto"))]
  return [link for link in local if not (directory / link).exists()]


@every_notebook
def test_stored_with_its_outputs_and_nothing_else_of_a_run(path):
  notebook = execute.read(path)
  nbformat.validate(notebook)
  assert path.stat().st_size < MOST_BYTES
  assert len(figures(notebook)) >= 3
  cleaned = execute.read(path)
  execute.clean(cleaned)
  assert cleaned == notebook
  kinds = {x.output_type for x in outputs(notebook)}
  assert kinds <= {"stream", "display_data", "execute_result"}


def outputs(notebook):
  cells = (x for x in notebook.cells if x.cell_type == "code")
  return [output for cell in cells for output in cell.outputs]


def figures(notebook):
  return [x for x in outputs(notebook) if "image/png" in x.get("data", {})]


def numbers(notebook):
  """Numbers that a notebook printed before it trained anything: a trained model
  answers otherwise on another processor."""
  texts = []
  for cell in notebook.cells:
    if "train.py" in cell.source and "subprocess" in cell.source:
      if "import subprocess" not in cell.source:
        break
    texts += [x.get("text", "") for x in cell.get("outputs", ())]
  found = re.compile(r"-?\d+\.?\d*(?:e[-+]?\d+)?")
  every = [float(x) for text in texts for x in found.findall(text)]
  # Larger ones are the noise that resize_matrices shows.
  return [x for x in every if abs(x) < 1e6]


def printed(cell):
  return "".join(output.text for output in cell.outputs).strip()


def test_a_run_uses_this_interpreter_and_fails_on_an_error():
  sources = (
    "import os, sys\nprint(sys.executable)",
    "print(os.getcwd())",
    "raise ValueError('made up')",
  )
  cells = [nbformat.v4.new_code_cell(source) for source in sources]
  notebook = nbformat.v4.new_notebook(cells=cells)
  with pytest.raises(CellExecutionError, match="made up"):
    execute.run(notebook)
  executable, directory = map(printed, notebook.cells[:2])
  assert os.path.samefile(executable, sys.executable)
  assert os.path.samefile(directory, ROOT / "notebooks")


@pytest.mark.slow
@every_notebook
def test_a_run_prints_the_stored_numbers(path):
  notebook = execute.read(path)
  stored = numbers(notebook)
  execute.run(notebook)
  assert len(figures(notebook)) >= 3
  found = numbers(notebook)
  assert len(stored) == len(found)
  # Printed to three or four digits; float32 sums differ in the seventh, and a
  # difference of two ways in all of its digits.
  np.testing.assert_allclose(found, stored, rtol=2e-3, atol=1e-5)


def _missing(text):
  """Modules and names of the package that a text imports, and are not there."""
  imports = re.findall(r"from (flexivit_jax[\w.]*) import ([\w, ]+)", text)
  for module, names in imports:
    for name in (x.split() for x in names.split(",") if x.strip()):
      path = ROOT / module.replace(".", "/")
      at = path / f"{name[0]}.py", path / name[0] / "__init__.py"
      own = path.with_suffix(".py") if path.suffix == "" else path
      own = own if own.exists() else path / "__init__.py"
      if any(x.exists() for x in at):
        continue
      if not own.exists() or not re.search(rf"\b{name[0]}\b", own.read_text()):
        yield f"{module}.{name[0]}"
  for path in re.findall(r"(?:flexivit_jax|tests)/[\w/]+\.py", text):
    if not (ROOT / path).exists():
      yield path


@pytest.mark.parametrize(
  "folder", ["*.md", "docs/*.md", "notebooks/*.ipynb", "configs/*.py"]
)
def test_code_and_paths_in_texts_exist(folder):
  texts = {p.name: p.read_text() for p in ROOT.glob(folder)}
  assert texts
  missing = {name: [*_missing(text)] for name, text in texts.items()}
  assert {name: found for name, found in missing.items() if found} == {}


def test_a_missing_import_is_seen():
  text = "from flexivit_jax.core import tokens, gone\ntests/none.py"
  assert [*_missing(text)] == ["flexivit_jax.core.gone", "tests/none.py"]
