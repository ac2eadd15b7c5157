"""What becomes of parts that die, decided without a clock and without processes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from lern.supervisor import ASK, Backoff, GiveUp, Kept, Part, PartDied, Restart, Supervisor


@pytest.mark.parametrize(
    ("deaths", "lived", "decision"),
    [
        (1, 0.1, Restart(0.5)),
        (2, 0.1, Restart(1.0)),
        (4, 0.1, Restart(4.0)),
        (5, 0.1, GiveUp(5)),
        (9, 3_600.0, Restart(0.5)),
    ],
)
def test_a_part_is_restarted_ever_later_until_it_is_given_up(
    deaths: int, lived: float, decision: Restart | GiveUp
) -> None:
    assert Backoff().decide(deaths, lived) == decision


def test_a_part_whose_settings_are_wrong_is_given_up_at_once() -> None:
    assert Backoff().decide(1, 0.1, code=2) == GiveUp(1)


def test_a_pause_is_never_longer_than_the_longest() -> None:
    assert Backoff(deaths=100, most=7.0).decide(50, 0.0) == Restart(7.0)


@dataclass
class Fake:
    """A process that ends when the test says so."""

    log: list[str]
    name: str
    pid: int = 1
    exit_code: int | None = None

    def end(self) -> None:
        self.log.append(f"end {self.name}")


@dataclass
class World:
    """Two parts, a clock that the test moves, and what has happened."""

    now: float = 0.0
    works: bool = True
    log: list[str] = field(default_factory=list)
    running: dict[str, Fake] = field(default_factory=dict)

    def part(self, name: str) -> Part:
        def start() -> Fake:
            self.log.append(f"start {name}")
            self.running[name] = Fake(self.log, name)
            return self.running[name]

        return Part(name, start, lambda _: self.works)

    def supervisor(self) -> Supervisor:
        return Supervisor([self.part("one"), self.part("two")], lambda: self.now, lambda _: None)


def states(kept: Sequence[Kept]) -> list[str]:
    return [one.state for one in kept]


def test_parts_start_in_order_and_end_in_the_reverse_order() -> None:
    world = World()
    supervisor = world.supervisor()
    told: list[list[str]] = []
    supervisor.changed = lambda kept: told.append(states(kept))
    supervisor.stop()
    supervisor.run()
    assert told == [["starting", "waiting"], ["starting", "starting"], ["starting", "ended"], ["ended", "ended"]]
    assert world.log == ["start one", "start two", "end two", "end one"]


def test_a_part_that_died_is_started_again_when_its_pause_is_over() -> None:
    world = World()
    supervisor = world.supervisor()
    for one in supervisor.kept:
        supervisor._start(one)
    supervisor.look()
    assert states(supervisor.kept) == ["ready", "ready"]
    world.running["two"].exit_code = 1
    supervisor.look()
    assert states(supervisor.kept) == ["ready", "restarting"]
    world.now = 0.4
    supervisor.look()
    assert states(supervisor.kept) == ["ready", "restarting"]
    world.now = 0.6
    supervisor.look()
    supervisor.look()
    assert states(supervisor.kept) == ["ready", "ready"]
    assert supervisor.kept[1].restarts == 1
    assert world.log == ["start one", "start two", "end two", "start two"]


def test_a_part_waits_for_those_before_it_and_is_ready_as_long_as_it_says_so() -> None:
    world = World()
    supervisor = world.supervisor()
    one, two = supervisor.kept
    supervisor._start(one)
    world.works = False
    supervisor.look()
    assert states(supervisor.kept) == ["starting", "waiting"]
    supervisor._start(two)
    world.works = True
    supervisor.look()
    assert states(supervisor.kept) == ["ready", "ready"]
    world.works = False
    world.now += ASK
    supervisor.look()
    assert states(supervisor.kept) == ["not ready", "not ready"]
    world.works = True
    world.now += ASK
    supervisor.look()
    assert states(supervisor.kept) == ["ready", "ready"]


def test_a_part_that_dies_again_and_again_ends_all() -> None:
    world = World()
    supervisor = world.supervisor()

    def die(_: Sequence[Kept]) -> None:
        world.now += 100 if world.log.count("start two") == 0 else 10
        if "two" in world.running:
            world.running["two"].exit_code = 7

    supervisor.changed = die
    with pytest.raises(PartDied, match="two has ended 5 times in a row, last with code 7"):
        supervisor.run()
    assert world.log.count("start two") == 5
    assert world.log[-1] == "end one"
