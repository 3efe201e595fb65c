"""HTML from values, where everything is escaped unless it is HTML already."""

import html
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from flexivit_jax.evaluation.report.figures import style

_VOID = {"img", "meta"}


class Html(str):
  """Text that is markup."""

  __slots__ = ()


def element(tag: str, *children: Any, **attributes: Any) -> Html:
  """`<tag attributes>children</tag>`.

  Args:
    children: `Html` as it is, others as text; None is left out.
    attributes: "class_" is "class", "data_tip" is "data-tip"; True has no
      value, None and False are left out.
  """
  written = [tag]
  for name, value in attributes.items():
    name = name.rstrip("_").replace("_", "-")
    if value is True:
      written.append(name)
    elif value is not None and value is not False:
      written.append(f'{name}="{text(value)}"')
  opened = f"<{' '.join(written)}>"
  if tag in _VOID:
    return Html(opened)
  return Html(f"{opened}{join(*children)}</{tag}>")


def join(*children: Any) -> Html:
  """Children beside each other, as in `element`."""
  return Html(
    "".join(
      child if isinstance(child, Html) else text(child)
      for child in children
      if child is not None
    )
  )


def text(value: Any) -> Html:
  """A value as text. Characters that HTML does not have (controls, halves of
  surrogate pairs, as in file names that are no UTF-8) become U+FFFD."""
  written = "".join(
    c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(value)
  )
  return Html(html.escape(written))


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
