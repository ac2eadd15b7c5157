"""Taking in what does not come from Kafka: whatever is away meanwhile, an event is taken in once and none is lost."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from lern.errors import SchemaMissing, Transient, Unreachable
from tests.acceptance.place import Place, message
from tests.bridges import run_of
from tests.servers.redis import RedisServer
from workflows import intake
from workflows.intake import take_in

# What whoever enters runs holds meanwhile: see `lern.ledger.runs.alone`.
ENTERING = 0x6C65726E_00000002


@pytest.fixture
def place(own_redis: RedisServer, tmp_path: Path) -> Iterator[Place]:
    with closing(Place.at(tmp_path, own_redis.url).create()) as made:
        yield made


@pytest.fixture
def impatient_place(own_redis: RedisServer, new_postgres_url: str, tmp_path: Path) -> Iterator[Place]:
    """A place whose ledger gives up a lock that it has waited for."""
    url = make_url(new_postgres_url).update_query_dict({"options": "-c lock_timeout=50"})
    with closing(Place.at(tmp_path, own_redis.url, ledger_url=url.render_as_string(hide_password=False))) as made:
        yield made


def mended_by(mend: Callable[[], object], errors: list[Exception]) -> Callable[[Exception], None]:
    """Note what was waited for, and mend it instead of waiting."""

    def wait(error: Exception) -> None:
        errors.append(error)
        mend()

    return wait


def test_an_event_of_the_api_is_not_lost_to_a_ledger_that_is_in_use(
    impatient_place: Place, new_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor to one whose tables are missing: its message is all there is of it."""
    place = impatient_place
    value = message("a", "b", "m").value or b""
    errors: list[Exception] = []
    monkeypatch.setattr(intake, "services", lambda: place.services)
    monkeypatch.setattr(intake, "patient", mended_by(place.services.ledger.migrate, errors))
    with psycopg.connect(new_postgres_url.replace("+psycopg", ""), autocommit=True) as other:
        intake.intake(value.decode(), None, run_of(value))
        other.execute("SELECT pg_advisory_lock(%s)", [ENTERING])
        monkeypatch.setattr(intake, "patient", mended_by(other.close, errors))
        later = message("c", "d", "n").value or b""
        intake.intake(later.decode(), None, run_of(later))
    assert [type(error) for error in errors] == [SchemaMissing, Transient]
    assert [place.run(run_of(one)).state for one in (value, later)] == ["queued", "queued"]


def test_a_dead_letter_counts_once_however_often_a_server_is_waited_for(place: Place, own_redis: RedisServer) -> None:
    place.enter("a", "b")
    errors: list[Exception] = []
    own_redis.kill()
    taken = take_in(place.services, [message("b", "a", "m")], mended_by(own_redis.start, errors))
    assert [type(error) for error in errors] == [Unreachable]
    assert (taken.dead, [letter.count for letter in place.services.ledger.dead_letters()]) == (1, [1])
