"""A figure's SVG as part of a page."""

import re
from collections.abc import Mapping
from xml.etree import ElementTree

from flexivit_jax.evaluation.drawing import style
from flexivit_jax.evaluation.page.elements import Html

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_REPLACED = {
  style.INK: "var(--ink)",
  style.FAINT: "var(--faint)",
  style.PAPER: "var(--paper)",
  # Where it is not installed, something as wide.
  "'DejaVu Sans'": "'DejaVu Sans', Verdana, sans-serif",
}


def inline(
  svg: bytes, prefix: str, label: str, tips: Mapping[str, str]
) -> Html:
  """Matplotlib's SVG without what would leak into the page around it.

  Args:
    prefix: of all ids, which must differ between the figures of a page.
    label: what the figure shows, for those who do not see it.
    tips: gid to the text to show where one hovers over it.
  """
  # Our own figures, not files of others.
  root = ElementTree.fromstring(svg)  # noqa: S314
  for parent in list(root.iter()):
    for child in list(parent):
      # Its <style> would apply to the whole page.
      if child.tag in (f"{_SVG}style", f"{_SVG}metadata"):
        parent.remove(child)
  for each in root.iter():
    each.tag = each.tag.removeprefix(_SVG)
    gid = each.get("id")
    attributes = {k: _rewritten(k, v, prefix) for k, v in each.items()}
    link = attributes.pop(_LINK, None)
    if link is not None:
      attributes["href"] = link
    if gid in tips:
      attributes |= {
        "class": "point",
        "tabindex": "0",
        "role": "img",
        "aria-label": tips[gid],
        "data-tip": tips[gid],
      }
    each.attrib.clear()
    each.attrib.update(attributes)
  box = root.get("viewBox")
  root.attrib.clear()
  root.attrib.update(
    {
      "viewBox": box,
      "role": "group" if tips else "img",
      "aria-label": label,
      "style": "stroke-linejoin: round; stroke-linecap: butt",
    }
  )
  return Html(ElementTree.tostring(root, encoding="unicode"))


def _rewritten(name, value, prefix):
  if name == "id":
    return f"{prefix}-{value}"
  if name in ("href", _LINK):
    return re.sub("^#", f"#{prefix}-", value)
  value = re.sub(r"url\(#", f"url(#{prefix}-", value)
  if name == "style":
    for ours, theirs in _REPLACED.items():
      value = value.replace(ours, theirs)
  return value
