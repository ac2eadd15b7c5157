"""An event of the Python API while a server is away: nobody else waits for it."""

from lern import Lern
from tasks.step import deliver
from tests.acceptance.workers import PATIENCE, Workers


def test_a_dead_letter_that_cannot_be_announced_yet_keeps_no_worker_from_the_others(workers: Workers) -> None:
    place = workers.place
    # In the place of the directory: no event can go out.
    out = place.settings.out_dir
    out.write_text("")
    lern = Lern(place.services.broker_url)
    lern.merge_accounts("a", "b")
    workers.start(concurrency=1)
    assert lern.merge_accounts("b", "a").wait(timeout=PATIENCE).state == "failed"
    assert lern.merge_accounts("c", "d").wait(timeout=PATIENCE).state == "succeeded"
    [letter] = place.services.ledger.dead_letters()
    assert letter.count == 1
    out.unlink()
    # As the sweeper does when it has lain for a minute.
    deliver(place.services, None)
    [announcement] = place.sent()[place.settings.topic("learning_events_failed")].values()
    assert letter.hash.encode() in announcement
    assert place.services.ledger.undelivered() == []
