"""Real workers killed while they work: others carry on within seconds, and the rows are those of undisturbed merges."""

from collections.abc import Mapping, Sequence

from tests.acceptance.conftest import MakePlace
from tests.acceptance.place import Place
from tests.acceptance.workers import Workers
from tests.accounts import Placed, account
from tests.batches import SOURCE, World, batch, transfer_event

# Seconds that a busy machine may take to do at once what is to be done at once.
SLACK = 10

PAIRS = [(f"from-{number}", f"to-{number}") for number in range(12)]


def rows_of_pairs() -> list[Placed]:
    """Accounts with so much in common that a merge takes its time."""
    return [row for pair in PAIRS for user in pair for row in account(user, ["course-1", f"of-{user}"], contents=40)]


def enter_all(place: Place) -> list[str]:
    return [place.enter(source, target) for source, target in PAIRS]


def merged_undisturbed(make_place: MakePlace, relations: Mapping[str, Sequence[str]] | None = None) -> Place:
    place = make_place()
    place.load(rows_of_pairs(), relations)
    for source, target in PAIRS:
        place.merge(source, target)
    return place


def at_work(place: Place) -> set[str | None]:
    """The tokens of the steps that the ledger calls running."""
    return {pending.token for pending in place.services.ledger.running()}


def lost(place: Place, runs: list[str]) -> int:
    return sum(attempt.outcome == "lost" for run in runs for attempt in place.detail(run).attempts)


def pauses(place: Place, runs: Sequence[str]) -> list[float]:
    """How long (s) each lost step stood still: from when the last of them began, after which its worker died."""
    attempts = [(run, attempt) for run in runs for attempt in place.detail(run).attempts]
    dead = [(run, attempt) for run, attempt in attempts if attempt.outcome == "lost"]
    begun = max(attempt.started_at or 0 for _, attempt in dead)
    again = [
        min(
            other.started_at or 0
            for of_run, other in attempts
            if of_run == run and other.step == lost.step and (other.started_at or 0) >= lost.ended_at
        )
        for run, lost in dead
    ]
    return [(started_at - begun) / 1000 for started_at in again]


def killed_at_work(workers: Workers, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Enter merges, and kill a new worker with its children in the middle of a step; gives the runs."""
    place = workers.place
    of_the_dead = at_work(place)
    worker = workers.start()
    # They stand in the middle of a step, with its users locked, while somebody else has the rows.
    with place.standstill():
        runs = [place.enter(source, target) for source, target in pairs]
        workers.until(lambda: at_work(place) - of_the_dead, "a step has begun")
        worker.kill()
    return runs


def test_a_worker_killed_with_its_children_again_and_again(workers: Workers, make_place: MakePlace) -> None:
    place = workers.place
    place.load(rows_of_pairs())
    runs = [run for start in range(0, len(PAIRS), 4) for run in killed_at_work(workers, PAIRS[start : start + 4])]
    workers.start()
    assert {run.state for run in workers.until_ended(runs)} == {"succeeded"}
    assert lost(place, runs) >= 3
    assert place.tables() == merged_undisturbed(make_place).tables()


def test_another_worker_recovers_what_a_killed_one_had_begun(workers: Workers, make_place: MakePlace) -> None:
    place = workers.place
    place.load(rows_of_pairs())
    first, second = workers.start(), workers.start()
    workers.until(lambda: len(first.children) == len(second.children) == 2, "the workers have children")
    # All four children stand in the middle of a step, with its users locked, while somebody else has the rows.
    with place.standstill():
        runs = enter_all(place)
        workers.until(lambda: len(place.services.ledger.running()) == 4, "every child has begun a step")
        first.kill()
    assert {run.state for run in workers.until_ended(runs)} == {"succeeded"}
    assert lost(place, runs) >= 2
    # The locks of the dead run out, and the next sweep sends their steps again: what else passes is the machine's.
    settings = place.settings
    assert max(pauses(place, runs)) < settings.lock_ttl + settings.sweep_interval + SLACK
    assert place.tables() == merged_undisturbed(make_place).tables()


def test_a_child_alone_is_killed_in_the_middle_of_a_step(workers: Workers, make_place: MakePlace) -> None:
    """Of a transfer, which comes first; merges come after it."""
    place = workers.place
    world = World(place)
    place.load(rows_of_pairs())
    batches = [batch(number, mentors=[SOURCE]) for number in range(20)]
    world.load(batches)
    worker = workers.start(concurrency=1)
    workers.until(lambda: len(worker.children) == 1, "the worker has a child")
    # The child stands in the middle of a step, with its users locked, while somebody else has the rows.
    with place.standstill():
        transfer = world.enter(transfer_event())
        runs = [transfer, *enter_all(place)]
        workers.until(place.services.ledger.running, "a step has begun")
        victim = worker.kill_child()
        workers.until(lambda: worker.children and victim not in worker.children, "the worker has a new child")
    assert {run.state for run in workers.until_ended(runs)} == {"succeeded"}
    assert lost(place, [transfer]) == 1
    undisturbed = World(merged_undisturbed(make_place))
    undisturbed.load(batches)
    undisturbed.succeed()
    assert place.tables() == undisturbed.place.tables()
