"""An enrolment that both accounts have: user_enrolments."""

import pytest

from lern.rules.merge import COMBINE, IGNORE, EnrolmentPolicy, keeps, merge, settle
from lern.store.tables import USER_ENROLMENTS, Row

KEY = {"userid": "B", "courseid": "do_course", "batchid": "01"}
TOKEN_1 = {"identifier": "1-a", "token": "T1", "name": "Course certificate"}
TOKEN_1_REISSUED = {"identifier": "1-b", "token": "T1", "name": "Course certificate"}
TOKEN_2 = {"identifier": "1-a", "token": "T2", "name": "Course certificate"}


def enrolled(**columns: object) -> Row:
    return {**KEY, "active": True, **columns}


def ghost(**columns: object) -> Row:
    return {**KEY, **columns}


def merged(target: Row, source: Row, policy: EnrolmentPolicy = COMBINE) -> Row:
    return merge(USER_ENROLMENTS, target, source, policy)


@pytest.mark.parametrize("column", ["status", "progress", "completionpercentage"])
@pytest.mark.parametrize(("mine", "theirs"), [(0, 2), (2, 0), (1, 1)])
def test_the_higher_stands(column: str, mine: int, theirs: int) -> None:
    assert merged(enrolled(**{column: mine}), enrolled(**{column: theirs}))[column] == max(mine, theirs)


@pytest.mark.parametrize("column", ["completedon", "enrolled_date"])
@pytest.mark.parametrize(("mine", "theirs"), [(10, 20), (20, 10), (-1, 0)])
def test_the_earlier_stands(column: str, mine: int, theirs: int) -> None:
    assert merged(enrolled(**{column: mine}), enrolled(**{column: theirs}))[column] == min(mine, theirs)


def test_contentstatus_is_the_higher_of_each_content_and_loses_none() -> None:
    row = merged(enrolled(contentstatus={"do_1": 2, "do_2": 1}), enrolled(contentstatus={"do_2": 2, "do_3": 0}))
    assert row["contentstatus"] == {"do_1": 2, "do_2": 2, "do_3": 0}


@pytest.mark.parametrize(
    ("mine", "theirs", "stands"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_active_if_either_is(mine: bool, theirs: bool, stands: bool) -> None:
    assert merged(enrolled(active=mine), enrolled(active=theirs))["active"] is stands


@pytest.mark.parametrize("column", ["certificates", "issued_certificates"])
@pytest.mark.parametrize(
    ("mine", "theirs", "stands"),
    [
        ([TOKEN_1], [TOKEN_2], [TOKEN_1, TOKEN_2]),
        ([TOKEN_1], [TOKEN_1_REISSUED], [TOKEN_1]),
        ([TOKEN_1, TOKEN_1_REISSUED], [TOKEN_2], [TOKEN_1, TOKEN_1_REISSUED, TOKEN_2]),
        ([TOKEN_1, TOKEN_1], [TOKEN_2], [TOKEN_1, TOKEN_2]),
        # Without a token the identifier tells them apart; a blank one is none.
        ([{"identifier": "i"}], [{"identifier": "i", "token": " "}], [{"identifier": "i"}]),
        ([{"identifier": "i"}], [{"identifier": "j"}], [{"identifier": "i"}, {"identifier": "j"}]),
        # With neither, only what is wholly equal is the same certificate.
        ([{"name": "a"}], [{"name": "a"}, {"name": "b"}], [{"name": "a"}, {"name": "b"}]),
        ([{"name": "a", "token": ""}], [{"name": "a"}], [{"name": "a", "token": ""}, {"name": "a"}]),
    ],
)
def test_certificates_are_united_the_targets_first(
    column: str, mine: list[dict[str, str]], theirs: list[dict[str, str]], stands: list[dict[str, str]]
) -> None:
    assert merged(enrolled(**{column: mine}), enrolled(**{column: theirs}))[column] == stands


@pytest.mark.parametrize(
    ("mine", "theirs", "stands"),
    [(10, 20, "theirs"), (20, 10, "mine"), (10, 10, "mine"), (None, 10, "theirs"), (10, None, "mine")],
)
def test_last_read_is_of_the_later_access(mine: int | None, theirs: int | None, stands: str) -> None:
    target, source = (
        enrolled(lastreadcontentid=name, lastreadcontentstatus=status)
        | ({} if time is None else {"lastcontentaccesstime": time})
        for name, status, time in (("mine", 2, mine), ("theirs", 0, theirs))
    )
    row = merged(target, source)
    assert row["lastreadcontentid"] == stands
    assert row["lastreadcontentstatus"] == {"mine": 2, "theirs": 0}[stands]
    assert row["lastcontentaccesstime"] == max(time for time in (mine, theirs) if time is not None)


def test_last_read_of_an_account_that_never_read_is_the_others() -> None:
    row = merged(enrolled(lastreadcontentid="do_1"), enrolled(lastcontentaccesstime=5))
    assert row["lastreadcontentid"] == "do_1"


@pytest.mark.parametrize(
    ("column", "mine", "theirs"),
    [("datetime", 1, 2), ("addedby", "x", "y"), ("enrolleddate", "2020", "2021"), ("certstatus", 0, 1)],
)
def test_the_rest_stays_the_targets_unless_it_has_none(column: str, mine: object, theirs: object) -> None:
    assert merged(enrolled(**{column: mine}), enrolled(**{column: theirs}))[column] == mine
    assert merged(enrolled(), enrolled(**{column: theirs}))[column] == theirs


def test_combined_the_source_may_go() -> None:
    target, source = enrolled(status=0), enrolled(status=2, completedon=5, issued_certificates=[TOKEN_1])
    assert keeps(USER_ENROLMENTS, merged(target, source), source) is None


class TestIgnore:
    def test_the_targets_enrolment_stays_as_it_is(self) -> None:
        target = enrolled(status=0, contentstatus={"do_1": 1})
        source = enrolled(status=2, completedon=5, contentstatus={"do_2": 2}, addedby="x")
        assert merged(target, source, IGNORE) == target

    @pytest.mark.parametrize(
        ("target", "source", "reason"),
        [
            (enrolled(), enrolled(issued_certificates=[TOKEN_1]), "no certificate 1-a in issued_certificates"),
            (enrolled(certificates=[TOKEN_2]), enrolled(certificates=[TOKEN_1]), "no certificate 1-a in certificates"),
            (enrolled(), enrolled(certificates=[{"name": "Merit"}]), "no certificate Merit in certificates"),
            (enrolled(status=2), enrolled(status=2, completedon=5), "no completion date"),
            (enrolled(status=1), enrolled(status=2), "not completed"),
            (enrolled(active=False), enrolled(), "not active"),
        ],
    )
    def test_a_source_that_has_what_the_target_lacks_is_kept(self, target: Row, source: Row, reason: str) -> None:
        kept = keeps(USER_ENROLMENTS, merged(target, source, IGNORE), source, IGNORE)
        assert kept is not None
        assert reason in kept

    @pytest.mark.parametrize(
        ("target", "source"),
        [
            (enrolled(), enrolled(status=1, progress=5)),
            (enrolled(), enrolled(active=False)),
            (enrolled(issued_certificates=[TOKEN_1]), enrolled(issued_certificates=[TOKEN_1_REISSUED])),
            (enrolled(status=2, completedon=9), enrolled(status=2, completedon=5)),
        ],
    )
    def test_a_source_that_has_nothing_more_may_go(self, target: Row, source: Row) -> None:
        assert keeps(USER_ENROLMENTS, merged(target, source, IGNORE), source, IGNORE) is None

    def test_an_enrolment_that_only_the_source_has_is_copied_and_may_go(self) -> None:
        source = enrolled(status=2, issued_certificates=[TOKEN_1])
        copy = settle(USER_ENROLMENTS, None, source, None, {}, IGNORE)
        assert copy == source
        assert keeps(USER_ENROLMENTS, copy, source, IGNORE) is None


@pytest.mark.parametrize("policy", list(EnrolmentPolicy))
class TestGhosts:
    """A row with neither active nor enrolled_date: content was saved by somebody who is not enrolled."""

    def test_a_ghost_of_the_source_is_neither_copied_nor_deleted(self, policy: EnrolmentPolicy) -> None:
        source = ghost(status=1, lastreadcontentid="do_1")
        assert settle(USER_ENROLMENTS, None, source, None, {}, policy) is None
        assert keeps(USER_ENROLMENTS, None, source, policy) == "not a real enrolment, not copied"

    def test_two_ghosts_stay_two_ghosts(self, policy: EnrolmentPolicy) -> None:
        target, source = ghost(status=0), ghost(status=1)
        assert settle(USER_ENROLMENTS, target, source, target, {}, policy) == target
        assert keeps(USER_ENROLMENTS, target, source, policy) == "not a real enrolment, not copied"

    def test_a_ghost_of_the_targets_gives_way_to_a_real_enrolment(self, policy: EnrolmentPolicy) -> None:
        target = ghost(status=2, progress=9, lastreadcontentid="do_9", contentstatus={"do_1": 2, "do_9": 2})
        source = enrolled(status=1, progress=1, enrolled_date=5, contentstatus={"do_1": 1})
        settled = settle(USER_ENROLMENTS, target, source, target, {}, policy)
        assert settled == {
            **source,
            "lastreadcontentid": "do_9",
            "contentstatus": {"do_1": 1, "do_9": 2},
        }
        assert keeps(USER_ENROLMENTS, settled, source, policy) is None

    @pytest.mark.parametrize(("mine", "theirs"), [(9, 5), (5, 9), (None, 5), (9, None)])
    def test_a_learner_was_last_where_he_was_last_enrolled_or_not(
        self, policy: EnrolmentPolicy, mine: int | None, theirs: int | None
    ) -> None:
        def at(content: str, time: int | None) -> Row:
            return {"lastreadcontentid": content, **({} if time is None else {"lastcontentaccesstime": time})}

        target, source = ghost(**at("do_9", mine)), enrolled(**at("do_5", theirs))
        settled = settle(USER_ENROLMENTS, target, source, target, {}, policy)
        assert settled == enrolled(**(at("do_9", 9) if mine == 9 else at("do_5", max(mine or 0, theirs or 0))))

    def test_a_certificate_issued_on_a_ghost_is_not_lost(self, policy: EnrolmentPolicy) -> None:
        row = merged(ghost(issued_certificates=[TOKEN_2]), enrolled(issued_certificates=[TOKEN_1]), policy)
        assert row["issued_certificates"] == [TOKEN_1, TOKEN_2]

    def test_a_real_enrolment_that_was_left_is_no_ghost(self, policy: EnrolmentPolicy) -> None:
        source = ghost(active=False, status=1)
        assert settle(USER_ENROLMENTS, None, source, None, {}, policy) == source
        assert keeps(USER_ENROLMENTS, source, source, policy) is None

    def test_an_enrolled_date_alone_makes_it_real(self, policy: EnrolmentPolicy) -> None:
        source = ghost(enrolled_date=0)
        assert settle(USER_ENROLMENTS, None, source, None, {}, policy) == source

    def test_a_real_row_is_kept_while_the_target_has_but_a_ghost(self, policy: EnrolmentPolicy) -> None:
        assert keeps(USER_ENROLMENTS, ghost(), enrolled(), policy) == "target has no such row"


def test_a_ghost_of_the_source_improves_a_real_enrolment_and_may_go() -> None:
    target, source = enrolled(status=0), ghost(status=1, contentstatus={"do_1": 2})
    settled = settle(USER_ENROLMENTS, target, source, target, {})
    assert settled == enrolled(status=1, contentstatus={"do_1": 2})
    assert keeps(USER_ENROLMENTS, settled, source) is None
