"""scripts/: environments that are made once, and errors of one line."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Writes down its calls; a venv of it has the same program.
PYTHON = """#!/usr/bin/env bash
echo "$*" | head -n 1 >> calls
case "$*" in
  "-c import sys"*) echo {version}; exit {too_old} ;;
  "-c import ensurepip, venv") exit {no_venv} ;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  "-m pip install"*) {pip} ;;
esac
"""
UNREACHABLE = {
  "PIP_INDEX_URL": "http://127.0.0.1:9",
  "PIP_CONFIG_FILE": os.devnull,
  "PIP_RETRIES": "1",
  "PIP_DRY_RUN": "1",
}
REAL_PIP = f'unset PIP_FIND_LINKS PIP_EXTRA_INDEX_URL; {sys.executable} "$@"'


@pytest.fixture
def script(tmp_path):
  """Runs a script of a small checkout with a false Python; call with its name
  and what the Python answers. Returns (status, lines of stderr, calls)."""
  shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
  (tmp_path / "pyproject.toml").touch()
  (tmp_path / "requirements.txt").write_text("made_up_for_a_test==1\n")
  (tmp_path / "requirements-dev.txt").write_text("-r requirements.txt\n")

  def run(name, *arguments, environment=None, **answers):
    answers = dict(version="3.11.0", too_old=0, no_venv=0, pip="") | answers
    python = tmp_path / "a python"
    python.write_text(PYTHON.format(**answers))
    python.chmod(0o755)
    (tmp_path / "calls").write_text("")
    done = subprocess.run(  # noqa: S603
      ["/bin/bash", tmp_path / "scripts" / name, *arguments],
      env=os.environ | {"PYTHON": "./a python"} | (environment or {}),
      cwd="/",
      capture_output=True,
      text=True,
    )
    calls = (tmp_path / "calls").read_text().splitlines()
    return done.returncode, done.stderr.splitlines(), calls

  return run


def test_installs_once_and_again_when_requirements_change(script, tmp_path):
  tests = "-m pytest -n 2 --dist loadfile -x"
  install = "-m pip install -q -r requirements-dev.txt -e ."
  status, errors, calls = script("tests.sh", "-x")
  assert (status, errors) == (0, [])
  assert calls[-3:] == ["-m venv .venv-test", install, tests]
  assert script("tests.sh", "-x") == (0, [], [tests])
  (tmp_path / "requirements.txt").write_text("made_up_for_a_test==2\n")
  _, _, calls = script("tests.sh", "-x")
  assert calls == ["-m pip --version", install, tests]


def test_digits_trains_and_evaluates(script):
  _, _, calls = script("digits.sh")
  assert calls[-4:] == [
    "-m venv .venv",
    "-m pip install -q -r requirements.txt -e .",
    "train.py --config configs/flexivit_digits.py --workdir runs/flexivit",
    "evaluate.py --checkpoint runs/flexivit --output runs/flexivit/eval",
  ]


@pytest.mark.parametrize(
  ("answers", "error"),
  [
    (
      dict(version="3.9.1", too_old=1),
      "Python 3.11 or later is needed, ./a python is 3.9.1. Set "
      "PYTHON=/path/to/python.",
    ),
    (
      dict(environment={"PYTHON": "./none"}),
      "Python 3.11 or later is needed, found none as ./none. Set "
      "PYTHON=/path/to/python.",
    ),
    (
      dict(no_venv=1),
      "./a python has no venv. Install it (apt install python3-venv) or set "
      "PYTHON=/path/to/python.",
    ),
    (
      dict(pip=REAL_PIP, environment=UNREACHABLE),
      "The package index cannot be reached (.venv/pip.log). Connect, or set "
      "PIP_INDEX_URL to a mirror.",
    ),
  ],
  ids=["old", "none", "no venv", "unreachable"],
)
def test_errors_are_one_line(script, answers, error):
  status, errors, calls = script("digits.sh", **answers)
  assert (status, errors) == (1, [error])
  assert not any("train.py" in call for call in calls)
