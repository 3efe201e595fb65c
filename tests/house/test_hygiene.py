"""Style, and what the code may not contain."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]])
def test_ruff_is_clean(arguments):
  done = subprocess.run(  # noqa: S603
    [sys.executable, "-m", "ruff", *arguments, "."],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout


def test_deprecations_in_our_modules_are_errors():
  code = "import warnings; warnings.warn('old', DeprecationWarning)"
  with pytest.raises(DeprecationWarning, match="old"):
    exec(code, {"__name__": "flexivit_jax.nn.made_up"})  # noqa: S102


def test_readme_names_files_that_exist():
  text = (ROOT / "README.md").read_text()
  links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
  configs = re.findall(r"configs/\w+\.py", text)
  missing = [x for x in {*links, *configs} if not (ROOT / x).exists()]
  assert len(links) >= 4
  assert missing == []
