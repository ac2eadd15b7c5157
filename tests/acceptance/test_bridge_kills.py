"""Wherever bridges are killed, and however often: a run for every good event, a dead letter for every broken one."""

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from lern import events
from lern.store.tables import USER_CONTENT_CONSUMPTION
from tests.acceptance.dying_bridge import STAGES
from tests.acceptance.place import Place
from tests.acceptance.workers import workers_of
from tests.accounts import content
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


def give_accounts(place: Place, good: list[bytes]) -> dict[str, int]:
    """Give every event a source and a target with one counter each; tells what each target's is once they are one.

    A counter is what a merge does not do twice unseen, and no two of the sums are the same.
    """
    wanted = [events.merge(events.parse(value)) for value in good]
    place.load(content(one.source, "course", "batch", "c", viewcount=1 + n) for n, one in enumerate(wanted))
    place.load(content(one.target, "course", "batch", "c", viewcount=len(good)) for one in wanted)
    return {one.target: len(good) + 1 + n for n, one in enumerate(wanted)}


def check(place: Surroundings, good: list[bytes], broken: list[bytes]) -> None:
    """Hold ledger, queue and topics against what was sent, where nobody has carried anything out."""
    # A chain may have been sent again by whoever could not know that it was: the ledger makes that harmless.
    assert set(place.queued()) == {run_of(value) for value in good}
    check_ledger(place, good, broken, "queued")


def check_ledger(place: Surroundings, good: list[bytes], broken: list[bytes], state: str) -> None:
    """Hold ledger and topics against what was sent: a run in this state for each good one, a letter for each other."""
    runs = place.ledger.runs(limit=10_000)
    assert {run.id for run in runs} == {run_of(value) for value in good}
    assert {(run.state, run.generation) for run in runs} == {(state, 1)}
    assert place.dead() == dict.fromkeys(broken, 1)
    announced = place.announced()
    assert {letter["event"].encode() for letter in announced} == set(broken)
    assert len({letter["mid"] for letter in announced}) == len(broken)


def test_killed_ten_times_at_random_and_two_at_a_time_bridges_lose_and_double_nothing(place: Surroundings) -> None:
    """While a worker carries the runs out: what each has done to the rows counts, not what stands in the queue."""
    chance = random.Random(20_240_501)
    messages, good, broken = mixture(EVENTS, chance)
    with closing(place.parts.store) as store, workers_of(Place(place.parts)) as workers:
        store.create()
        sums = give_accounts(workers.place, good)
        workers.start()
        killed_ten_times(place, messages, len(good), chance)
        workers.until_ended(run_of(value) for value in good)
        check_ledger(place, good, broken, "succeeded")
        # Nobody's source has a row left, and nobody's views were counted twice.
        rows = workers.place.rows(USER_CONTENT_CONSUMPTION)
        assert len(rows) == len(good)
        assert {row["userid"]: row["viewcount"] for row in rows} == sums


def killed_ten_times(place: Surroundings, messages: list[bytes], good: int, chance: random.Random) -> None:
    """Have bridges take in messages, one and later two of them, of which again and again one is killed."""
    more, written = threading.Semaphore(0), threading.Event()
    share = -(-len(messages) // (KILLS + 1))

    def write() -> None:
        """Write a share for every kill, bit by bit, so that there is something to do at each."""
        for begin in range(0, len(messages), share):
            more.acquire()
            for start in range(begin, min(begin + share, len(messages)), 20):
                place.produce(messages[start : min(start + 20, begin + share)])
                written.wait(chance.uniform(0, 0.8))

    # A test that has failed by then does not wait for it.
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    alive: list[BridgeProcess] = []
    for kill in range(KILLS):
        # The second one for the second half of the time.
        wanted = 1 if kill < KILLS // 2 else 2
        alive.extend(place.process("--start", "earliest") for _ in range(wanted - len(alive)))
        until(lambda: place.at_work() == {bridge.pid for bridge in alive}, "each has partitions")
        _let_them_work(place, more, chance)
        alive.pop(chance.randrange(len(alive))).kill()
    alive.append(place.process("--start", "earliest"))
    more.release()
    written.set()
    writer.join()
    until(lambda: place.how_many() == good and place.all_committed(), "everything is taken in")
    assert [bridge.terminate() for bridge in alive] == [0] * len(alive)


def _let_them_work(place: Surroundings, more: threading.Semaphore, chance: random.Random) -> None:
    """Wait until some more has been done, and then for any moment of what follows."""
    before = place.how_many()
    more.release()
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
