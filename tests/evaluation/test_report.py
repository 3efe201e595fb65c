"""The files of a report."""

import dataclasses
import io
import json

import invented_sweeps
import pytest
from PIL import Image

from flexivit_jax.evaluation.report import report, results

CURVES = ("curve_multiply_adds", "curve_latency", "curve_tokens")


def files(directory):
  return {
    str(path.relative_to(directory))
    for path in directory.rglob("*")
    if path.is_file()
  }


def expected(*names):
  figures = {f"figures/{n}.{form}" for n in names for form in ("png", "svg")}
  return {"report.html", "results.json", *figures}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  directory = tmp_path_factory.mktemp("report") / "new" / "out"
  sweep = invented_sweeps.sweep(
    invented_sweeps.settings((16, 8), sides=(160, 240))
  )
  return directory, sweep, report.write(directory, sweep, invented_sweeps.image)


def test_all_files_are_written(written):
  directory, _, paths = written
  names = (*CURVES, "heat_map", "classes")
  assert files(directory) == expected(*names)
  assert {str(p.relative_to(directory)) for p in paths} == files(directory)
  assert {*names, "routes"} == set(report.FIGURES)


def test_files_hold_what_they_should(written):
  directory, sweep, paths = written
  found = json.loads((directory / "results.json").read_text())
  assert found == results.to_json(sweep)
  assert paths[0].read_text(encoding="utf-8").endswith("</html>\n")
  for path in paths[2:]:
    content = path.read_bytes()
    if path.suffix == ".png":
      with Image.open(io.BytesIO(content)) as image:
        image.load()
    else:
      assert content.rstrip().endswith(b"</svg>")


def test_an_equal_report_has_equal_bytes(written, tmp_path):
  directory, sweep, _ = written
  report.write(tmp_path, sweep, invented_sweeps.image)
  for name in files(directory):
    assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()


def test_an_older_report_leaves_nothing_behind(tmp_path):
  more = invented_sweeps.sweep(
    invented_sweeps.settings((16, 8), sides=(160, 240))
  )
  fewer = invented_sweeps.sweep(
    invented_sweeps.settings((16,), sides=(240,)), latency=False
  )
  report.write(tmp_path, more, invented_sweeps.image)
  (tmp_path / "figures" / "own.png").write_bytes(b"mine")
  report.write(tmp_path, fewer, None)
  assert files(tmp_path) == {
    *expected(CURVES[0], CURVES[2], "classes"),
    "figures/own.png",
  }


def test_a_full_disk_names_the_file(small_disk):
  directory = small_disk(64)
  with pytest.raises(OSError, match="No space left") as error:
    report.write(directory, invented_sweeps.small(), None)
  assert error.value.filename.startswith(str(directory / "figures" / "curve_"))
  assert files(directory) < expected(*report.FIGURES)
  assert "report.html" not in files(directory)


@pytest.mark.slow
def test_cascades_have_a_figure_and_a_section_and_take_them_along(tmp_path):
  one = invented_sweeps.sweep(invented_sweeps.settings((12, 4), sides=(24,)))
  routes = invented_sweeps.ROUTES
  for sweep in (dataclasses.replace(one, routes=routes), one):
    report.write(tmp_path, sweep, None)
    page = (tmp_path / "report.html").read_text()
    for text in ("12 -(0.93)&gt; 4", "cascade, chosen", "-0.4 +- 0.3"):
      assert (text in page) == bool(sweep.routes)
    drawn = (tmp_path / "figures" / "routes.svg").exists()
    assert drawn == bool(sweep.routes)
    numbers = json.loads((tmp_path / "results.json").read_text())
    shown = [(r["name"], r["top1"]) for r in numbers["routes"]]
    assert shown == [(r.name, r.top1) for r in sweep.routes]
