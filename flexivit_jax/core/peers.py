"""The processes of a run: what one says to all."""

import dataclasses
from typing import Any, Protocol


class Peers(Protocol):
  """All processes of a run, as one of them sees them.

  Whatever one of them asks for, all have to ask for, in the same order.

  Attributes:
    index: of this process, 0 to below count.
    count: of the processes.
  """

  index: int
  count: int

  def gather(self, value: Any) -> list[Any]:
    """The value of each process, in order.

    Args:
      value: JSON.
    """

  def stop_signal(self, own: int | None) -> int | None:
    """The number of the signal after which all stop here; None: go on.

    The answer is the same in every process that has asked as often.

    Args:
      own: the signal that this process got; None: it got none.
    """


@dataclasses.dataclass(frozen=True)
class Alone:
  """One process."""

  index: int = 0
  count: int = 1

  def gather(self, value):
    return [value]

  def stop_signal(self, own):
    return own


ALONE = Alone()
