"""Wherever bridges are killed, and however often: a run for every good event, a dead letter for every broken one."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.dying_bridge import STAGES
from tests.bridges import BridgeProcess, Surroundings, merges, run_of, surroundings, until
from tests.servers.redis import RedisServer
from tests.servers.server import Server

EVENTS: Final = 2_000
KILLS: Final = 10


@pytest.fixture
def place(kafka: Server, redis_server: RedisServer, tmp_path: Path) -> Iterator[Surroundings]:
    # Small batches, so that a kill falls into the middle of the work.
    made = surroundings(kafka.address, redis_server.url, tmp_path, BRIDGE_BATCH="20", KAFKA_SESSION_TIMEOUT="1")
    yield made
    made.close()


def mixture(number: int, chance: random.Random) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Give messages, and of what they are: 85 % good events, 10 % repeats of them, 5 % broken ones, shuffled."""
    good = merges(number * 85 // 100)
    broken = [b'{"edata": {"fromAccountId": %d}}' % n for n in range(number * 5 // 100)]
    repeats = chance.sample(good, number - len(good) - len(broken))
    messages = good + repeats + broken
    chance.shuffle(messages)
    return messages, good, broken


def check(place: Surroundings, good: list[bytes], broken: list[bytes]) -> None:
    """Hold ledger, queue and topics against what was sent."""
    wanted = {run_of(value) for value in good}
    assert place.runs() == wanted
    # A chain may have been sent again by whoever could not know that it was: the ledger makes that harmless.
    assert set(place.queued()) == wanted
    assert place.dead() == dict.fromkeys(broken, 1)
    announced = place.announced()
    assert {letter["event"].encode() for letter in announced} == set(broken)
    assert len({letter["mid"] for letter in announced}) == len(broken)
    assert all(run.state == "queued" and run.generation == 1 for run in place.ledger.runs(limit=10_000))


def test_killed_ten_times_at_random_and_two_at_a_time_bridges_lose_and_double_nothing(place: Surroundings) -> None:
    chance = random.Random(20_240_501)
    messages, good, broken = mixture(EVENTS, chance)
    written = threading.Event()

    def write() -> None:
        """Write bit by bit, so that there is something to do at every kill."""
        for start in range(0, len(messages), 20):
            place.produce(messages[start : start + 20])
            written.wait(chance.uniform(0, 0.4))

    writer = threading.Thread(target=write)
    writer.start()
    alive = [place.process("--start", "earliest")]
    for kill in range(KILLS):
        # The second one for the second half of the time.
        while len(alive) < (1 if kill < KILLS // 2 else 2):
            alive.append(place.process("--start", "earliest"))
        _let_them_work(place, chance)
        alive.pop(chance.randrange(len(alive))).kill()
        alive.append(place.process("--start", "earliest"))
    written.set()
    writer.join()
    until(lambda: len(place.runs()) == len(good) and place.all_committed(), "everything is taken in")
    assert [bridge.terminate() for bridge in alive] == [0] * len(alive)
    check(place, good, broken)


def _let_them_work(place: Surroundings, chance: random.Random) -> None:
    """Wait until some more has been done, and then for any moment of what follows."""
    before = place.how_many()
    until(lambda: place.how_many() > before, "bridges get on with the work")
    threading.Event().wait(chance.uniform(0, 0.3))


def test_killed_between_any_two_of_its_steps_the_bridge_does_the_batch_again(place: Surroundings) -> None:
    good: list[bytes] = []
    broken: list[bytes] = []
    for point in range(len(STAGES) + 1):
        some, bad = merges(3), b"broken %d" % point
        place.produce([*some, bad])
        good += some
        broken.append(bad)
        dying = place.process(str(point), "--start", "earliest", module="tests.acceptance.dying_bridge")
        assert dying.wait() == -9, dying.said
    with place.bridge():
        until(place.all_committed, "everything is through")
    check(place, good, broken)


def test_asked_to_end_a_bridge_finishes_its_batch_and_leaves_nothing_to_repeat(place: Surroundings) -> None:
    first, second = merges(300), merges(50)
    place.produce(first)
    bridge = place.process("--start", "earliest")
    until(place.runs, "it is at work")
    assert bridge.terminate() == 0, bridge.said
    entered = place.runs()
    assert sum(place.committed().values()) == len(entered)
    place.produce(second)
    other: BridgeProcess = place.process()
    until(place.all_committed, "everything is through")
    assert other.terminate() == 0, other.said
    assert set(place.queued().values()) == {1}
    check(place, first + second, [])
