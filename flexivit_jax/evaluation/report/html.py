"""HTML from values, where everything is escaped unless it is HTML already."""

import html
from typing import Any

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
