"""report.html: whole by itself, escaped, and what it says."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import invented_sweeps
import pytest
from PIL import Image

from flexivit_jax.evaluation import deploy, table
from flexivit_jax.evaluation.report import hard_images, looks
from flexivit_jax.evaluation.report import page as page_lib
from flexivit_jax.evaluation.report.figures import all_figures, style

EVIL = '<script>alert("1")</script>'


def render(sweep, image=invented_sweeps.image):
  best = deploy.most_accurate(sweep.points)
  return page_lib.render(
    sweep,
    drawings=all_figures.draw(sweep),
    worst=hard_images.worst(sweep, best, 4),
    sensitive=hard_images.sensitive(sweep, 4),
    image=image,
  )


class Page(HTMLParser):
  """Elements with their attributes, and the text outside script and style."""

  def __init__(self, text):
    super().__init__()
    self.found, self.text, self._inside = [], [], None
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attributes):
    self.found.append((tag, dict(attributes)))
    self._inside = tag

  def handle_endtag(self, tag):
    self._inside = None

  def handle_data(self, data):
    if self._inside not in ("script", "style"):
      self.text.append(data)

  def all(self, tag, **attributes):
    return [
      found
      for name, found in self.found
      if name == tag and attributes.items() <= found.items()
    ]


GRID = invented_sweeps.grid()


@pytest.fixture(scope="module")
def grid_text():
  return render(GRID)


@pytest.fixture(scope="module")
def grid_page(grid_text):
  return Page(grid_text)


# Every attribute of HTML and SVG that makes a browser fetch something.
FETCHING = (
  *("src", "href", "xlink:href", "srcset", "action", "formaction", "data"),
  *("poster", "background", "manifest", "ping", "cite", "longdesc"),
)


def fetched(text):
  """What a page would ask for outside itself."""
  page = Page(text)
  asked = [
    f"{tag} {name}={value}"
    for tag, attributes in page.found
    for name, value in attributes.items()
    if name in FETCHING and not value.startswith(("#", "data:"))
  ]
  asked += re.findall(r"url\((?!#)[^)]*\)", text)
  asked += re.findall(r"@import[^;]*|fetch\(|XMLHttp\w+|import\(", text)
  return asked


def test_the_page_asks_for_nothing_and_runs_our_script_alone(
  grid_text, grid_page
):
  assert fetched(grid_text) == []
  (policy,) = [
    a["content"]
    for a in grid_page.all("meta")
    if a.get("http-equiv") == "Content-Security-Policy"
  ]
  digest = hashlib.sha256(looks.SCRIPT.encode()).digest()
  assert policy == (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{base64.b64encode(digest).decode()}'"
  )
  assert len(grid_page.all("script")) == 1


def test_everything_is_escaped():
  sweep = invented_sweeps.small(
    names=tuple(f'{EVIL}"><img src=x onerror=alert({i})>' for i in range(10)),
    checkpoint=f"runs/{EVIL}",
    model=EVIL,
    data=f"folder:{EVIL}",
    command=f"python evaluate.py --checkpoint 'runs/{EVIL}'",
    provenance={EVIL: {EVIL: [EVIL, None, True]}},
  )
  text = render(sweep)
  assert "<script>alert" not in text
  page = Page(text)
  plain = Page(render(invented_sweeps.small()))
  for tag in ("script", "img"):
    assert len(page.all(tag)) == len(plain.all(tag))
  assert all(x["src"].startswith("data:") for x in page.all("img"))
  assert not any(name.startswith("on") for _, a in page.found for name in a)
  shown = "".join(page.text)
  for text in (f"runs/{EVIL}", f"folder:{EVIL}", f"'runs/{EVIL}'"):
    assert text in shown
  assert f"{EVIL} {EVIL}, unknown, yes" in shown
  # Class names stand under the images.
  assert any(style.printable(n, 60) in shown for n in sweep.classes)


def test_what_is_no_character_is_replaced():
  sweep = invented_sweeps.small(
    names=tuple(f"{i}\x00\udcff\u202e" for i in range(10)),
    checkpoint="runs/\udcff",
    command="one\ntwo",
  )
  text = render(sweep, image=None)
  text.encode()
  assert not {"\x00", "\u202e"} & {*text}
  assert "runs/\ufffd: accuracy against cost" in text
  assert "one\ntwo" in text


def test_the_whole_table_is_there(grid_page):
  columns = table.columns(GRID.points, 10)
  cells = grid_page.all("td")
  assert len(cells) == 30 * len(columns)
  values = [float(a["data-value"]) for a in cells]
  assert values == [x for row in zip(*(c.values for c in columns)) for x in row]
  shown = "".join(grid_page.text)
  for column in columns:
    assert "".join(column.meaning) in shown
  # And where it came from.
  for text in ("90000", "22,059,274", GRID.command, "numpy unknown", "0" * 40):
    assert text in shown


def test_thumbnails_are_in_the_page(grid_page):
  images = [x for x in grid_page.all("img") if x["alt"].startswith("image ")]
  assert len(images) == 8
  kind, content = images[0]["src"].split(",", 1)
  assert kind == "data:image/png;base64"
  index = int(images[0]["alt"].removeprefix("image "))
  with Image.open(io.BytesIO(base64.b64decode(content))) as image:
    pixels = invented_sweeps.image(index)
    assert image.size == pixels.shape[1::-1]
    assert image.tobytes() == pixels.tobytes()
