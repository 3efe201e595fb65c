"""The notebooks: as they are stored, and run from top to bottom."""

import os
import pathlib
import re
import sys

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Two minutes on two idle cores; these may be busy.
TIMEOUT_S = 600

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


def read(path):
  return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def broken_links(notebook, directory):
  """Relative links of markdown cells that lead nowhere."""
  text = "\n".join(
    x.source for x in notebook.cells if x.cell_type == "markdown"
  )
  links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text)
  local = [link for link in links if not link.startswith(("http", "mailto"))]
  return [link for link in local if not (directory / link).exists()]


@every_notebook
def test_stored_without_what_a_run_leaves(path):
  notebook = read(path)
  nbformat.validate(notebook)
  assert notebook.metadata.kernelspec.name == "python3"
  # No version of Python, no state of widgets.
  assert set(notebook.metadata) == {"kernelspec", "language_info"}
  assert notebook.metadata.language_info == {"name": "python"}
  for cell in notebook.cells:
    assert cell.source.strip()
    assert not cell.metadata
    if cell.cell_type == "code":
      assert cell.outputs == []
      assert cell.execution_count is None


@every_notebook
def test_links_lead_somewhere(path):
  assert broken_links(read(path), path.parent) == []


def test_a_broken_link_is_seen():
  text = "[a](../README.md), [b](gone.md#x), [c](https://arxiv.org)"
  cells = [nbformat.v4.new_markdown_cell(text)]
  notebook = nbformat.v4.new_notebook(cells=cells)
  assert broken_links(notebook, ROOT / "notebooks") == ["gone.md"]


def run(notebook):
  """Runs all cells as Jupyter would from notebooks/, with this interpreter."""
  # Without directories of specifications, python3 is ipykernel's own.
  specs = KernelSpecManager(kernel_dirs=[])
  manager = AsyncKernelManager(kernel_spec_manager=specs)
  # The client ends a kernel that it was handed only when it is told to.
  NotebookClient(
    notebook,
    km=manager,
    timeout=TIMEOUT_S,
    resources={"metadata": {"path": str(ROOT / "notebooks")}},
  ).execute(cleanup_kc=True)


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
    run(notebook)
  executable, directory = map(printed, notebook.cells[:2])
  assert os.path.samefile(executable, sys.executable)
  assert os.path.samefile(directory, ROOT / "notebooks")


@pytest.mark.slow
@every_notebook
def test_runs_from_top_to_bottom(path):
  notebook = read(path)
  run(notebook)
  figures = [
    output
    for cell in notebook.cells
    for output in cell.get("outputs", ())
    if "image/png" in output.get("data", {})
  ]
  assert len(figures) >= 3


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
