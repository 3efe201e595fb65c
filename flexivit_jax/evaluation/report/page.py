"""A sweep as one HTML page."""

import base64
import hashlib
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from flexivit_jax.evaluation import deploy, table
from flexivit_jax.evaluation.cascade import measure
from flexivit_jax.evaluation.deploy import describe
from flexivit_jax.evaluation.report import looks
from flexivit_jax.evaluation.report.figures import thumbnails
from flexivit_jax.evaluation.report.figures.all_figures import Drawing
from flexivit_jax.evaluation.report.hard_images import HardImage
from flexivit_jax.evaluation.report.html import Html, element, join
from flexivit_jax.evaluation.settings import Sweep

# Pixels of an image by its index: u8 `[h, w, 3]`.
ImageOf = Callable[[int], np.ndarray]


def render(
  sweep: Sweep,
  *,
  drawings: Sequence[Drawing],
  worst: Sequence[HardImage],
  sensitive: Sequence[HardImage],
  image: ImageOf | None,
) -> str:
  """The page. It holds all that it shows and asks for nothing else; its own
  policy would forbid it. Equal input gives equal text.

  Args:
    image: of an index, u8 `[h, w, 3]`; None: captions alone.
  """
  title = f"{sweep.checkpoint}: accuracy against cost"
  columns = table.columns(sweep.points, len(sweep.classes))
  policy = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{_sha256(looks.SCRIPT)}'"
  )
  head = element(
    "head",
    element("meta", charset="utf-8"),
    element("meta", http_equiv="Content-Security-Policy", content=policy),
    element(
      "meta", name="viewport", content="width=device-width, initial-scale=1"
    ),
    # Or the browser asks for /favicon.ico where the page is served.
    Html('<link rel="icon" href="data:,">'),
    element("title", title),
    element("style", Html(looks.STYLE)),
  )
  main = element(
    "main",
    element("h1", title),
    _summary(sweep),
    element("div", *map(_figure, drawings), class_="figures"),
    _routes(sweep),
    _section("Every point", _table(columns), _meanings(columns)),
    _worst(sweep, worst, image),
    _sensitive(sweep, sensitive, image),
    _origin(sweep),
  )
  body = element("body", main, element("script", Html(looks.SCRIPT)))
  return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _sha256(text):
  return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _section(title, *children):
  return element("section", element("h2", title), *children)


def _facts(facts):
  return element(
    "dl", *(join(element("dt", k), element("dd", v)) for k, v in facts.items())
  )


def _summary(sweep):
  best = deploy.most_accurate(sweep.points)
  facts = {
    "Checkpoint": sweep.checkpoint,
    "Step": sweep.step,
    "Model": sweep.model,
    "Parameters": f"{sweep.parameters:,}",
    "Data": sweep.data,
    "Images": f"{best.images:,}",
    "Points": len(sweep.points),
    "Most accurate": f"{describe(best.setting)}: {100 * best.top1:.1f} % top-1",
  }
  return _facts({k: v for k, v in facts.items() if v is not None})


def _table(columns):
  head = (
    element(
      "th",
      element("button", c.head, type="button", title=c.meaning),
      scope="col",
    )
    for c in columns
  )
  rows = zip(*(zip(c.cells, c.values) for c in columns), strict=True)
  body = (
    element("tr", *(element("td", cell, data_value=v) for cell, v in row))
    for row in rows
  )
  return _scrolling(
    element(
      "table",
      element("thead", element("tr", *head)),
      element("tbody", *body),
      class_="sortable",
    ),
    "every point",
  )


def _scrolling(content, label):
  """A box that scrolls by itself, by keyboard as well."""
  return element(
    "div", content, class_="scroll", tabindex=0, role="region", aria_label=label
  )


def _meanings(columns):
  return element(
    "details",
    element("summary", "What the columns mean"),
    _facts({c.head: c.meaning for c in columns}),
  )


def _figure(drawing):
  image = element(
    "img", src=_data(drawing.svg, "svg+xml"), alt=drawing.title, class_="figure"
  )
  return _section(drawing.title, image, element("p", drawing.text))


def _routes(sweep):
  if not sweep.routes:
    return None
  head = (element("th", name, scope="col") for name in measure.HEAD)
  rows = (
    element("tr", *(element("td", cell) for cell in row))
    for row in measure.cells(sweep.routes)
  )
  return _scrolling(
    element(
      "table", element("thead", element("tr", *head)), element("tbody", *rows)
    ),
    "cascades",
  )


def _worst(sweep, found, image):
  best = describe(deploy.most_accurate(sweep.points).setting)
  return _section(
    "Worst images",
    element(
      "p",
      f"Highest loss at the most accurate point, {best}: the image's class, "
      "and what was predicted.",
    ),
    _images(sweep, found, image),
  )


def _sensitive(sweep, found, image):
  if not found:
    return None
  return _section(
    "Images most sensitive to patch size",
    element(
      "p",
      "Largest standard deviation over patch sizes of exp(-loss), which with "
      "softmax cross-entropy is the probability of the right class. Under "
      "each its class, and what was predicted at the best and the worst of "
      "the patch sizes.",
    ),
    _images(sweep, found, image),
  )


def _images(sweep, found, image):
  return element(
    "div",
    *(_image(one, sweep.classes, image) for one in found),
    class_="images",
  )


def _image(one: HardImage, names: Sequence[str], image: ImageOf | None) -> Html:
  first, *others = thumbnails.captions(one, names)
  picture = None
  if image is not None:
    made = thumbnails.thumbnail(image(one.index))
    picture = element(
      "img", src=_data(_png(made), "png"), alt=f"image {one.index}"
    )
  lines = (element("span", x) for x in (*others, f"image {one.index}"))
  return element(
    "figure", picture, element("figcaption", element("span", first), *lines)
  )


def _png(picture: Image.Image) -> bytes:
  file = io.BytesIO()
  picture.save(file, "PNG")
  return file.getvalue()


def _data(content: bytes, form: str) -> str:
  return f"data:image/{form};base64," + base64.b64encode(content).decode()


def _origin(sweep):
  known = {
    name.replace("_", " "): _plain(value)
    for name, value in sweep.provenance.items()
    if name != "command"  # above, as it can be pasted
  }
  return _section(
    "How this was made",
    _scrolling(element("pre", sweep.command), "command"),
    _facts(known),
  )


def _plain(value):
  if isinstance(value, dict):
    return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
  if isinstance(value, list | tuple):
    return ", ".join(map(_plain, value))
  if isinstance(value, bool):
    return "yes" if value else "no"
  return "unknown" if value is None else str(value)
