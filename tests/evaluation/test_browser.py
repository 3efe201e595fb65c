"""report.html in headless Chromium, where it is installed."""

import browser
import invented_sweeps
import pytest

from flexivit_jax.evaluation import deploy
from flexivit_jax.evaluation.report import report

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(browser.PROGRAM is None, reason="no Chromium on PATH"),
]
SIZES = [(390, 844), (1280, 900)]
VISIBLE = "document.querySelector('.curve:not([hidden])')"


@pytest.fixture(scope="module")
def sweep():
  names = tuple(
    f"a class with a name of sixty characters, number {i:013}"
    for i in range(10)
  )
  return invented_sweeps.grid(names=names, checkpoint="runs/" + "long" * 50)


@pytest.fixture(scope="module")
def path(sweep, tmp_path_factory):
  directory = tmp_path_factory.mktemp("browser")
  return report.write(directory, sweep, invented_sweeps.image)[0]


@pytest.fixture(scope="module")
def page(path):
  with browser.browser() as opened:
    yield opened


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_it_opens_without_a_complaint(page, path, width, height, dark):
  page.open(path, width=width, height=height, dark=dark)
  assert page.complaints == []
  outside = [url for url in page.requests if not url.startswith("data:")]
  assert set(outside) == {path.as_uri()}
  # Nothing is wider than the window; the table scrolls inside its box.
  assert page.run("document.documentElement.scrollWidth") == width
  assert page.run("document.documentElement.clientWidth") == width
  if width == 390:
    box = "document.querySelector('.scroll table').parentElement"
    assert page.run(f"{box}.scrollWidth > {box}.clientWidth")
  paper = "rgb(23, 23, 27)" if dark else "rgb(255, 255, 255)"
  assert page.run("getComputedStyle(document.body).backgroundColor") == paper


def test_complaints_are_noticed(page, path):
  page.open(path, width=390)
  page.run("console.error('something')")
  page.run("setTimeout(() => missing())")
  page.run("new Promise((done) => setTimeout(done, 50))")
  assert len(page.complaints) >= 1
  page.complaints.clear()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_curve_is_drawn(page, path, width, height):
  page.open(path, width=width, height=height)
  shown = page.run(
    f"(() => {{ const svg = {VISIBLE}.querySelector('svg');"
    "const box = svg.getBoundingClientRect();"
    "return [box.left, box.right, box.height,"
    "svg.querySelectorAll('.point').length]; })()"
  )
  left, right, tall, points = shown
  assert 0 <= left < right <= width
  assert tall > 250
  assert points == 30
  # Letters of the axes, in pixels: 9 units, scaled with the figure.
  size = page.run(
    f"{VISIBLE}.querySelector('svg text').getBoundingClientRect().height"
  )
  assert size >= 10


def at(page, i):
  """Where a point of the visible curve lies, scrolled to."""
  return page.run(
    f"(() => {{ const p = {VISIBLE}.querySelectorAll('.point')[{i}];"
    "p.scrollIntoView({block: 'center'});"
    "const box = p.getBoundingClientRect();"
    "return [box.left + box.width / 2, box.top + box.height / 2]; })()"
  )


def tip(page):
  """What the box says, and whether it lies inside the window; None: hidden."""
  return page.run(
    f"(() => {{ const tip = {VISIBLE}.querySelector('.tip');"
    "if (tip.hidden) return null;"
    "const box = tip.getBoundingClientRect();"
    "return [tip.innerText, box.left >= 0 && box.right <= innerWidth]; })()"
  )


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_hovering_shows_the_numbers(page, path, sweep, width, height):
  page.open(path, width=width, height=height)
  assert tip(page) is None
  counts = []
  # All of them: some lie on each other.
  for i, point in enumerate(sweep.points):
    page.move(*at(page, i))
    text, inside = tip(page)
    assert f"{deploy.describe(point.setting)}\n" in text
    assert f"top-1 % {100 * point.top1:.1f}" in text
    assert inside
    counts.append(text.count("loss"))
  assert counts.count(1) >= 26
  page.move(1, 1)
  assert tip(page) is None


def test_the_keyboard_shows_the_numbers(page, path, sweep):
  page.open(path, width=1280, height=900)
  for _ in range(3 + 1):  # three buttons, then the first point
    page.press("Tab")
  first = deploy.describe(sweep.points[0].setting)
  assert tip(page)[0].startswith(f"{first}\n")
  page.press("Tab")
  second = deploy.describe(sweep.points[1].setting)
  assert tip(page)[0].startswith(f"{second}\n")
  page.press("Escape")
  assert tip(page) is None


def test_a_tap_shows_the_numbers(page, path, sweep):
  page.open(path, width=390)
  page("Emulation.setTouchEmulationEnabled", enabled=True)
  x, y = at(page, 4)
  page(
    "Input.dispatchTouchEvent",
    type="touchStart",
    touchPoints=[{"x": x, "y": y}],
  )
  page("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
  page("Emulation.setTouchEmulationEnabled", enabled=False)
  expected = deploy.describe(sweep.points[4].setting)
  assert tip(page)[0].startswith(f"{expected}\n")


def test_another_cost_can_be_chosen(page, path):
  page.open(path, width=390)
  for name in ("latency", "tokens", "multiply_adds"):
    page.run(f"document.querySelector('[data-shows=curve_{name}]').click()")
    assert page.run(f"{VISIBLE}.id") == f"curve_{name}"
    shown = page.run("document.querySelectorAll('.curve:not([hidden])').length")
    assert shown == 1


def column(page, i):
  return page.run(
    "[...document.querySelectorAll('tbody tr')].map("
    f"row => parseFloat(row.cells[{i}].dataset.value))"
  )


def test_the_table_sorts(page, path):
  page.open(path, width=1280)
  before = column(page, 4)
  head = "document.querySelectorAll('th')[4]"
  page.run(f"{head}.querySelector('button').click()")
  assert column(page, 4) == sorted(before) != before
  assert page.run(f"{head}.getAttribute('aria-sort')") == "ascending"
  page.run(f"{head}.querySelector('button').click()")
  assert column(page, 4) == sorted(before, reverse=True)
  assert page.run(f"{head}.getAttribute('aria-sort')") == "descending"


def test_without_script_all_curves_are_shown(page, path):
  page.open(path, width=390, script=False)
  # What the browser is asked for here is no script of the page.
  page("Emulation.setScriptExecutionDisabled", value=False)
  shown = page.run(
    "[...document.querySelectorAll('.curve')]"
    ".filter(x => x.getBoundingClientRect().height > 200).length"
  )
  assert shown == 3
  assert page.run("document.querySelector('.choice').hidden")
