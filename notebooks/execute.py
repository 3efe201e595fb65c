"""Runs the notebooks and stores them with their outputs.

  python -m notebooks.execute            # all
  python -m notebooks.execute packing    # one

Needs requirements-dev.txt. Each takes a minute or two on two CPU cores.
"""

import pathlib
import re
import sys
import tempfile

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

HERE = pathlib.Path(__file__).parent
TIMEOUT_S = 900

# Lines of train.py, which hold times and directories.
LOG = re.compile(
  r"^(matrix products:|compiled |step \d+/|finished; ).*\n?", re.M
)
TEMPORARY = re.compile(rf"{re.escape(tempfile.gettempdir())}/\w+")


def read(path: pathlib.Path) -> nbformat.NotebookNode:
  return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def run(notebook: nbformat.NotebookNode) -> None:
  """Runs all cells as Jupyter would from here, with this interpreter.

  Raises:
    CellExecutionError: a cell raised.
  """
  # Without directories of specifications, python3 is ipykernel's own.
  specs = KernelSpecManager(kernel_dirs=[])
  manager = AsyncKernelManager(kernel_spec_manager=specs)
  # The client ends a kernel that it was handed only when it is told to.
  NotebookClient(
    notebook,
    km=manager,
    timeout=TIMEOUT_S,
    resources={"metadata": {"path": str(HERE)}},
  ).execute(cleanup_kc=True)


def clean(notebook: nbformat.NotebookNode) -> None:
  """Leaves out what differs between two runs on one machine."""
  notebook.metadata = nbformat.from_dict(
    {
      "kernelspec": notebook.metadata.kernelspec,
      "language_info": {"name": "python"},
    }
  )
  for cell in notebook.cells:
    cell.metadata = nbformat.from_dict({})
    if cell.cell_type == "code":
      cell.execution_count = None
      for output in cell.outputs:
        if "execution_count" in output:
          output.execution_count = None
        if "text" in output:
          output.text = TEMPORARY.sub("RUN", LOG.sub("", output.text))
        if "text/plain" in output.get("data", {}):
          output.data["text/plain"] = TEMPORARY.sub(
            "RUN", output.data["text/plain"]
          )
      cell.outputs = [x for x in cell.outputs if x.get("text") != ""]


def main(names):
  for path in sorted(HERE.glob("*.ipynb")):
    if not names or path.stem in names:
      notebook = read(path)
      run(notebook)
      clean(notebook)
      nbformat.write(notebook, path)
      print(f"{path.name}: {path.stat().st_size / 2**20:.2f} MiB", flush=True)


if __name__ == "__main__":
  main(sys.argv[1:])
