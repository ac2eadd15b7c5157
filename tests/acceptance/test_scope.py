"""Scope: a merge reaches the attempts and scores of every course that the source was in, also where rows stay."""

from lern.store.tables import ASSESSMENT_AGGREGATOR, USER_ACTIVITY_AGG, USER_COURSES
from tests.acceptance.conftest import MakePlace
from tests.acceptance.place import Place
from tests.accounts import DAY, aggregates, attempt, enrolment, legacy_enrolment


def enrol_with_an_attempt(place: Place, user: str, **columns: object) -> None:
    """Enrol somebody who has opened nothing and yet has an attempt and a score."""
    place.load(
        [
            enrolment(user, "c", "b", active=True, enrolled_date=DAY, **columns),
            attempt(user, "c", "b", "quiz", f"attempt-{user}", total_score=1.0),
            aggregates(user, "c", "b", aggregates={f"score:{user}": 1.0}),
        ]
    )


def assert_attempts_and_scores_came(place: Place) -> None:
    attempts = {row["attempt_id"] for row in place.rows(ASSESSMENT_AGGREGATOR, "to")}
    assert attempts == {"attempt-from", "attempt-to"}
    [scores] = place.rows(USER_ACTIVITY_AGG, "to")
    assert {"score:from", "score:to"} <= scores["aggregates"].keys()


def test_enrolments_that_are_kept_and_add_nothing_lead_to_their_attempts(make_place: MakePlace) -> None:
    place = make_place(merge_source_rows="keep")
    for user in ("from", "to"):
        enrol_with_an_attempt(place, user, status=1)
    place.merge("from", "to")
    assert_attempts_and_scores_came(place)


def test_an_enrolment_that_is_left_at_the_source_leads_to_its_attempts(make_place: MakePlace) -> None:
    place = make_place(merge_enrolments="ignore")
    enrol_with_an_attempt(place, "from", status=2, completedon=DAY)
    enrol_with_an_attempt(place, "to", status=1)
    run = place.merge("from", "to")
    assert any("left at the source" in warning for warning in place.run(run).warnings)
    assert_attempts_and_scores_came(place)


def test_looking_again_at_rows_that_stay_is_no_work(make_place: MakePlace) -> None:
    place = make_place(merge_source_rows="keep")
    for user in ("from", "to"):
        enrol_with_an_attempt(place, user, status=1)
    run = place.merge("from", "to")
    merged = place.tables()
    place.services.ledger.retry(run, 0, "somebody", "merge.content")
    assert place.carry_out(run).state == "succeeded"
    assert place.tables() == merged


def test_a_legacy_enrolment_of_a_batch_without_contents_is_found_by_its_enrolment(make_place: MakePlace) -> None:
    place = make_place(merge_tables="current,legacy")
    place.load([enrolment("from", "c", "b", active=True, enrolled_date=DAY, status=1)])
    place.load([legacy_enrolment("from", "c", "b", active=True, status=1)])
    place.merge("from", "to")
    assert [row["userid"] for row in place.rows(USER_COURSES)] == ["to"]
