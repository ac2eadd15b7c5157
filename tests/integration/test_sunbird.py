"""Users and batches as Sunbird's services tell of them, and what is made of every strange answer."""

import socket
from typing import Any

import pytest

from lern import service_call
from lern.errors import LernError, Overloaded, Refused, Transient, Unreachable
from lern.lms import LmsSearch
from lern.users import Users, check_transfer
from tests.batches import OTHER, SOURCE, TARGET, batch, document
from tests.servers.sunbird import BLOCKED, HTML, UNKNOWN, Reply, batch_search, dripping, envelope, sunbird, user

PATH = "/private/user/v1/read/"
ORG = "0126987"


def check(replies: dict[str, Reply], organisation: str | None = ORG) -> None:
    """Check a transfer by what the service says of each user."""
    with sunbird(lambda path, _: replies[path.removeprefix(PATH)]) as service:
        check_transfer(Users(service.url, PATH), "source", "target", organisation)


def test_a_target_of_the_organisation_may_have_what_a_deleted_source_leaves() -> None:
    check({"target": user("target", rootOrgId=ORG), "source": BLOCKED})


def test_a_target_may_belong_to_the_organisation_below_its_root() -> None:
    organisations = [{"organisationId": "x"}, {"organisationId": ORG.upper(), "roles": None}]
    check({"target": user("target", rootOrgId="root", organisations=organisations), "source": BLOCKED}, ORG.lower())


def test_without_an_organisation_none_is_asked_for() -> None:
    check({"target": user("target", rootOrgId="x"), "source": user("source", rootOrgId="y")}, None)


IN, OUT = {"rootOrgId": ORG}, {"rootOrgId": "x", "organisations": [{"organisationId": ORG, "isDeleted": True}]}


@pytest.mark.parametrize(
    ("target", "source", "reason"),
    [
        (UNKNOWN, BLOCKED, "user target is not known"),
        (BLOCKED, BLOCKED, "the target target is deleted or blocked"),
        (user("target", isDeleted=True, **IN), BLOCKED, "the target target is deleted"),
        (user("target", **{**IN, "status": 0}), BLOCKED, "the target target is not active"),
        (user("target", **OUT), BLOCKED, f"the target target does not belong to organisation {ORG}"),
        (user("target", rootOrgId=None), BLOCKED, "does not belong"),
        (user("target", **IN), UNKNOWN, "user source is not known"),
        (user("target", **IN), user("source", **OUT), "the source source does not belong"),
        (user("Target", **IN), BLOCKED, "user target was asked for, and the user and org service answered with Target"),
        (
            envelope(status=401, err="unAuthorized", errmsg="no"),
            BLOCKED,
            "user target cannot be read: 401 unAuthorized no",
        ),
        (envelope(status=400, err="OTHER", errmsg="no"), BLOCKED, "user target cannot be read: 400 OTHER no"),
    ],
)
def test_each_refusal_says_why(target: Reply, source: Reply, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        check({"target": target, "source": source})


@pytest.mark.parametrize(
    ("reply", "kind", "reason"),
    [
        (HTML, Unreachable, "cannot be reached: http://127.0.0.1.*: answered 200 with a page in HTML"),
        ((302, "text/html", b"<html>this way</html>"), Unreachable, "answered 302 with a page in HTML"),
        ((404, "text/html", b"<html>no such path</html>"), Transient, "answered text/html where JSON was expected"),
        ((200, "application/json", b"<html>"), Transient, "answered application/json where JSON was expected"),
        ((200, "application/json", b"[1]"), Transient, "answered application/json where JSON was expected"),
        ((500, "text/html", b"oh"), Transient, "answered 500"),
        ((429, "text/plain", b"slow down"), Overloaded, "takes no more work at the moment: .*answered 429"),
        ((502, "text/html", b"bad gateway"), Unreachable, "answered 502"),
        ((503, "text/html", b""), Unreachable, "answered 503"),
        (envelope({}), Transient, "says nothing of user target"),
        (user("target", status=[1]), Transient, "gives user target a status that is none"),
    ],
)
def test_an_answer_that_is_none_is_no_refusal(reply: Reply, kind: type[LernError], reason: str) -> None:
    with pytest.raises(kind, match=reason):
        check({"target": reply, "source": BLOCKED})


@pytest.mark.parametrize("status", [200, 429, 500, 503])
def test_a_password_in_the_address_is_not_told(status: int) -> None:
    with sunbird(lambda _path, _: (status, "text/html", b"<html>")) as service, pytest.raises(LernError) as caught:
        Users(service.url.replace("//", "//lern:secret@"), PATH).read("u")
    assert f"{status}" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_service_that_does_not_listen_is_waited_for() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(Unreachable, match="user and org service cannot be reached"):
            Users(url, PATH).read("u")


def test_an_answer_that_cannot_be_unpacked_is_none() -> None:
    gzip = {"content-encoding": "gzip"}
    with (
        sunbird(lambda _path, _: user("u"), headers=gzip) as service,
        pytest.raises(Transient, match="nobody can read"),
    ):
        Users(service.url, PATH).read("u")


def test_an_answer_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_call, "_WHOLE", 0.2)
    with dripping() as url, pytest.raises(Unreachable, match="no whole answer"):
        Users(url, PATH).read("u")


def test_an_id_is_one_part_of_the_path() -> None:
    with sunbird(lambda _path, _: user("a/b?c")) as service:
        Users(service.url + "/", PATH).read("a/b?c")
    assert service.asked == [(PATH + "a%2Fb%3Fc", None)]


def test_lms_service_is_asked_to_the_end() -> None:
    rows = [batch(number) for number in range(2_100)]
    rows += [
        batch(5_000, createdby=OTHER, mentors=[SOURCE]),
        batch(5_001, createdby=SOURCE.lower()),
        batch(5_002, status=2),
    ]
    with sunbird(batch_search([document(row) for row in rows])) as service:
        search = LmsSearch(service.url, "/v1/course/batch/search")
        found = [one.id for one in search.owned_by(SOURCE, (0, 1))]
    assert sorted(found) == sorted(row["batchid"] for row in rows[:2_101])
    assert not search.ended_early


def test_lms_service_may_give_fewer_at_once_than_it_is_asked_for() -> None:
    everything = batch_search([document(batch(number)) for number in range(250)])

    def hundreds(path: str, body: Any) -> Reply:
        body["request"]["limit"] = min(body["request"]["limit"], 100)
        return everything(path, body)

    with sunbird(hundreds) as service:
        found = {one.id for one in LmsSearch(service.url, "/search").owned_by(SOURCE)}
    assert len(found) == 250


def test_that_lms_service_ends_at_ten_thousand_is_said() -> None:
    with sunbird(batch_search([document(batch(number)) for number in range(10_001)])) as service:
        search = LmsSearch(service.url, "/search")
        assert len(list(search.owned_by(SOURCE))) == 10_000
    assert search.ended_early


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (HTML, Unreachable),
        ((200, "application/json", b"[]"), Transient),
        (envelope({"response": {"content": None}}), Transient),
        (envelope({"response": {"count": 55}}), Transient),
        (envelope({"response": {"count": 55, "content": []}}), Transient),
        (envelope(status=400), Refused),
    ],
)
def test_a_search_that_fails_is_not_an_empty_one(reply: Reply, kind: type[LernError]) -> None:
    with sunbird(lambda _path, _: reply) as service, pytest.raises(kind):
        list(LmsSearch(service.url, "/search").owned_by(TARGET))
