"""Something that happens beside a transfer, at a place of the test's choice."""

from collections.abc import Callable
from typing import Any

from tests.batches import World


class Beside:
    """A store or a search, beside which something is done before or after the first calls of a method."""

    def __init__(self, inner: Any, method: str, *acts: Callable[[], object], after: bool = False) -> None:
        self._inner, self._method, self._acts, self._after = inner, method, list(acts), after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name != self._method or not self._acts:
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            act = self._acts.pop(0) if self._acts else int
            if not self._after:
                act()
            result = found(*arguments, **options)
            if self._after:
                act()
            return result

        return call


def beside(world: World, part: str, method: str, *acts: Callable[[], object], after: bool = False) -> None:
    """Do one of `acts` beside each of the first calls of a method of the store or search."""
    world.services.__dict__[part] = Beside(getattr(world.services, part), method, *acts, after=after)
