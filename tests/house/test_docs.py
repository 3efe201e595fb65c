"""The notebooks: as they are stored, and run from top to bottom."""

import pathlib
import re

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Two minutes on two idle cores; these may be busy.
TIMEOUT_S = 600

every_notebook = pytest.mark.parametrize(
  "path", NOTEBOOKS, ids=lambda p: p.stem
)


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
  assert len(NOTEBOOKS) == 4
  notebook = read(path)
  nbformat.validate(notebook)
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
