"""The engines of this process, for processors in the same one: by the path of their block."""

from typing import Protocol
from weakref import WeakValueDictionary


class DrawsNext(Protocol):
    """Who is told that a draw comes."""

    def before_draw(self) -> None:
        """Hand over what the rows of the draw are to know."""


ENGINES: WeakValueDictionary[str, DrawsNext] = WeakValueDictionary()
