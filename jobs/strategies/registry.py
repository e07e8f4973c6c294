"""The registry of strategies: those that come with Endmark, and those of other packages, found by name."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points

from endmark.jobs.errors import SpecError
from endmark.jobs.strategies.base import Strategy

GROUP = "endmark.strategies"  # of entry points


class Registry(Mapping[str, type[Strategy]]):
    """Classes of strategies by name. Other packages are looked at when a name is asked for that is not our own."""

    def __init__(self, own: tuple[type[Strategy], ...]) -> None:
        self._own = {item.name: item for item in own}

    def __getitem__(self, name: str) -> type[Strategy]:
        """Return a class.

        Raises:
            KeyError: there is none.
            SpecError: another package has it, and it cannot be used.
        """
        if name in self._own:
            return self._own[name]
        found = self._others[name]
        if isinstance(found, str):
            raise SpecError(
                f"strategy `{name}` cannot be used: {found}", hint="upgrade that package, or uninstall it"
            )
        return found

    def __iter__(self) -> Iterator[str]:
        return iter([*self._own, *(name for name, item in self._others.items() if not isinstance(item, str))])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def broken(self) -> dict[str, str]:
        """The names that other packages give to what cannot be used, and why."""
        return {name: item for name, item in self._others.items() if isinstance(item, str)}

    @cached_property
    def _others(self) -> dict[str, type[Strategy] | str]:
        """The classes of other packages, or why one cannot be used."""
        return {point.name: self._load(point) for point in entry_points(group=GROUP)}

    def _load(self, point: EntryPoint) -> type[Strategy] | str:
        """Return the class of an entry point, or why it is none."""
        package = f"the package `{point.dist.name}`" if point.dist is not None else f"`{point.value}`"
        if point.name in self._own:
            return f"{package} gives this name to another strategy than Endmark's own"
        try:
            found = point.load()
        except Exception as error:  # whatever another package raises must not end Endmark
            return f"{package} cannot be imported: {type(error).__name__}: {error}"
        if not isinstance(found, type) or not issubclass(found, Strategy) or found.name != point.name:
            return f"{package} has no strategy of this name at `{point.value}`"
        return found
