"""Processes that are kept alive: started in order, restarted with growing pauses, ended in the reverse order.

What to do about a part that has died is decided by a policy that reads no clock and starts nothing.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

PAUSE: Final = 0.1
# How long (s) a part that is at work, or was, is believed before it is asked again.
ASK: Final = 1.0
# A command says by this exit code that its settings or arguments are wrong. They will be the next time.
WRONG: Final = 2


class Process(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int:
        """Its number."""

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""

    def end(self) -> None:
        """End it, and whatever it has started."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the part again after so many seconds."""

    after: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Whatever kills the part is not mended by starting it again."""

    deaths: int


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often and how soon a part is restarted. A part that lived for `healthy` seconds starts anew."""

    first: float = 0.5
    most: float = 30.0
    healthy: float = 60.0
    deaths: int = 5

    def decide(self, deaths: int, lived: float, code: int | None = None) -> Restart | GiveUp:
        """Say what to do about a part that died after `lived` seconds, the `deaths`-th time in a row, with a code."""
        in_a_row = 1 if lived >= self.healthy else deaths
        if in_a_row >= self.deaths or code == WRONG:
            return GiveUp(in_a_row)
        return Restart(min(self.most, self.first * 2 ** (in_a_row - 1)))


@dataclass(frozen=True, slots=True)
class Part:
    """A process to be kept alive. `ready` asks the one with this number whether it does its work."""

    name: str
    start: Callable[[], Process]
    ready: Callable[[int], bool]


@dataclass
class Kept:
    """How a part is doing. Times are the clock's, in seconds."""

    part: Part
    process: Process | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    deaths: int = 0
    restarts: int = 0
    ready: bool = False
    ask_at: float | None = None
    ended: bool = False

    @property
    def state(self) -> str:
        """In a word or two: waiting for those before it, starting, ready, not ready (any more), restarting, ended."""
        if self.ended:
            return "ended"
        if self.process is None:
            return "waiting" if self.restart_at is None else "restarting"
        if self.ready:
            return "ready"
        return "starting" if self.ask_at is None else "not ready"


class PartDied(Exception):
    """A part died again and again, or of what will not change."""

    def __init__(self, name: str, code: int | None, deaths: int) -> None:
        """Name the part, its last exit code, and how often it died in a row."""
        often = f" {deaths} times in a row, last" if deaths > 1 else ""
        super().__init__(f"{name} has ended{often} with code {code}")
        self.name = name


@dataclass
class Supervisor:
    """Keeps parts alive until it is stopped. `changed` is told whenever a part's state is another."""

    parts: Sequence[Part]
    clock: Callable[[], float]
    changed: Callable[[Sequence[Kept]], None]
    backoff: Backoff = field(default_factory=Backoff)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Nothing runs yet."""
        self.kept = [Kept(part) for part in self.parts]

    def stop(self) -> None:
        """Ask `run` to end. May be called by a signal handler, and from another thread."""
        self._stop.set()

    def run(self) -> None:
        """Start the parts in order and keep them alive until `stop`; then end them, the last first.

        Raises `PartDied` for a part that dies whenever it is started; the others are ended all the same.
        """
        try:
            for one in self.kept:
                self._start(one)
            while not self._stop.wait(PAUSE):
                self.look()
        finally:
            self._end()

    def look(self) -> None:
        """Look at every part once. Raises `PartDied`."""
        before = [one.state for one in self.kept]
        for one in self.kept:
            self._look_at(one)
        if [one.state for one in self.kept] != before:
            self.changed(self.kept)

    def _look_at(self, one: Kept) -> None:
        if one.process is None:
            if one.restart_at is not None and self.clock() >= one.restart_at:
                one.restarts += 1
                self._start(one)
            return
        code = one.process.exit_code
        if code is None:
            self._ask(one, one.process.pid)
            return
        lived = self.clock() - one.started_at
        one.deaths = 1 if lived >= self.backoff.healthy else one.deaths + 1
        # What it had started itself must not live on beside its successor.
        one.process.end()
        match self.backoff.decide(one.deaths, lived, code):
            case GiveUp(deaths):
                raise PartDied(one.part.name, code, deaths)
            case Restart(after):
                one.process, one.ready, one.restart_at = None, False, self.clock() + after

    def _ask(self, one: Kept, pid: int) -> None:
        """Ask a part whether it is ready: one that starts again and again, one that was ready every now and then."""
        if one.ask_at is not None and self.clock() < one.ask_at:
            return
        one.ready = one.part.ready(pid)
        if one.ready or one.ask_at is not None:
            # By the clock after the answer: one that hangs lets us wait for it.
            one.ask_at = self.clock() + ASK

    def _start(self, one: Kept) -> None:
        one.process = one.part.start()
        one.started_at, one.restart_at, one.ready, one.ask_at = self.clock(), None, False, None
        self.changed(self.kept)

    def _end(self) -> None:
        for one in reversed(self.kept):
            if one.process is not None:
                one.process.end()
                one.process, one.ended = None, True
                self.changed(self.kept)
