"""The same over HTTP, for scripts, and who is let in."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.acceptance.place import Place
from tests.acceptance.site import ROOT, Site, site
from tests.accounts import RELATIONS, two_accounts


@pytest.fixture
def flower(place: Place) -> Iterator[Site]:
    with site(place) as made:
        made.start_flower()
        yield made


def cli(flower: Site, *arguments: str) -> Any:
    """What the command prints as JSON."""
    command = [sys.executable, "-m", "lern.cli", *arguments, "--json"]
    environment = {"PATH": "/usr/bin:/bin", **flower.place.settings.environ()}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def broken(place: Place, source: str = "source") -> str:
    target = source.replace("source", "target")
    place.load(two_accounts(source, target), RELATIONS)
    place.sql("UPDATE user_enrolments SET progress = 'x' WHERE userid = ?", source)
    run_id = place.enter(source, target)
    assert place.carry_out(run_id).state == "failed"
    place.services.broker.delete(place.settings.queue)
    return run_id


def test_a_script_finds_what_failed_mends_it_and_sees_it_succeed(flower: Site) -> None:
    run_id = broken(flower.place)
    flower.place.merge("other", "one")
    [found] = flower.api("GET", "/runs?state=failed").json()
    assert (found["id"], found["reason"]) == (run_id, "BAD_ROW")
    flower.place.sql("UPDATE user_enrolments SET progress = 1 WHERE userid = 'source'")
    answer = flower.api("POST", f"/runs/{run_id}/retry")
    assert (answer.status_code, answer.json()["generation"]) == (202, 2)
    again = flower.api("POST", f"/runs/{run_id}/retry")
    assert again.status_code == 409
    assert "only a failed one can be retried" in again.json()["error"]
    flower.start_worker()
    flower.until(run_id, "succeeded")
    assert flower.api("POST", f"/runs/{run_id}/retry").status_code == 409
    shown = flower.api("GET", f"/runs/{run_id}").json()
    assert [(entry["who"], entry["action"]) for entry in shown["audit"]] == [("API token", "retry")]
    undone = flower.api("POST", f"/runs/{run_id}/undo")
    assert undone.status_code == 202
    flower.until(undone.json()["id"], "succeeded")
    assert flower.api("POST", f"/runs/{run_id}/undo").status_code == 409


def test_what_scripts_are_given_is_what_the_command_prints(flower: Site) -> None:
    run_id = broken(flower.place)
    flower.place.enter("source", "elsewhere", "another")
    assert flower.api("GET", "/runs").json() == cli(flower, "runs", "list")
    assert [flower.api("GET", f"/runs/{run_id}").json()] == cli(flower, "runs", "show", run_id)
    [letter] = flower.api("GET", "/dead").json()
    assert [letter] == cli(flower, "dead", "list")
    assert [flower.api("GET", f"/dead/{letter['id']}").json()] == cli(flower, "dead", "show", str(letter["id"]))


def curl(flower: Site, path: str, body: str | bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    """Send a body as it stands, under whatever it calls itself."""
    given = {"Authorization": f"Bearer {flower.token}", **(headers or {})}
    return httpx.post(f"{flower.url}/api/lern{path}", content=body, headers=given, timeout=30)


def test_a_step_of_a_succeeded_run_is_done_again_by_name(flower: Site) -> None:
    run_id = flower.place.merge("source", "target")
    assert flower.api("POST", f"/runs/{run_id}/retry", json={"step": "nonsense"}).status_code == 409
    assert flower.api("POST", f"/runs/{run_id}/retry", json={"setp": "merge.content"}).status_code == 400
    retry = f"/runs/{run_id}/retry"
    # As `curl -d` sends it.
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert curl(flower, retry, '{"step": "nonsense"}', form).status_code == 409
    for body in ("step=merge.content", "[" * 100_000, '{"step": "\\ud800"}', '{"step": 5}', '["step"]', b"\xff"):
        refused = curl(flower, retry, body, form)
        assert (refused.status_code, bool(refused.json()["error"])) == (400, True), body[:30]
    assert curl(flower, retry, '{"step": "a", "step": "merge.aggregates"}').status_code == 400
    assert curl(flower, f"/runs/{run_id}/undo", '{"step": "merge.content"}').status_code == 400
    assert flower.place.run(run_id).state == "succeeded"
    assert curl(flower, retry, '{"step": "merge.aggregates"}', form).status_code == 202
    assert flower.place.run(run_id).step == "merge.aggregates"


def test_pages_lead_to_each_other_and_hold_every_run_once(flower: Site) -> None:
    entered = {flower.place.enter(f"s{n}", f"t{n}") for n in range(7)}
    found: list[str] = []
    following: str | None = "/runs?workflow=merge&limit=3"
    while following is not None:
        answer = flower.api("GET", following)
        found += [run["id"] for run in answer.json()]
        place = answer.links.get("next", {}).get("url")
        following = None if place is None else place.removeprefix("/api/lern")
    assert (len(found), set(found)) == (7, entered)


def test_what_cannot_be_is_refused_with_the_reason(flower: Site) -> None:
    run_id = flower.place.enter("source", "target")
    flower.place.enter("target", "source")
    [letter] = flower.place.services.ledger.dead_letters()
    assert letter.id == 1
    for method, path, status in (
        ("GET", "/runs?state=nonsense", 400),
        ("GET", "/runs?stat=failed", 400),
        ("GET", "/runs?limit=0", 400),
        ("GET", "/runs?limit=x", 400),
        ("GET", "/runs?limit=0000000011001", 400),
        ("GET", "/runs?since=yesterday", 400),
        ("GET", "/runs?after=x", 400),
        ("GET", "/runs/none%20such", 404),
        ("GET", "/runs/%00", 400),
        ("GET", "/runs?user=a%00", 400),
        ("GET", "/dead?state=closed", 400),
        ("GET", "/dead/999", 404),
        ("GET", "/dead/0000000000000000019", 404),
        ("GET", "/nothing", 404),
        ("POST", "/nothing", 404),
        ("GET", "", 404),
        ("GET", f"/runs/{run_id}/retry", 405),
        ("GET", f"/runs/{run_id}/undo", 405),
        ("POST", f"/runs/{run_id}", 405),
        ("DELETE", f"/runs/{run_id}", 405),
        ("POST", "/dead/1", 405),
    ):
        answer = flower.api(method, path)
        assert (answer.status_code, bool(answer.json()["error"])) == (status, True), (method, path)
    assert flower.api("GET", "/runs/100%25s").json() == {"error": "there is no run 100%s"}


def test_a_dead_letter_is_replayed_once_and_says_what_became_of_it(flower: Site) -> None:
    first = flower.place.merge("source", "target")
    flower.place.enter("source", "elsewhere", "another")
    flower.place.services.broker.delete(flower.place.settings.queue)
    [letter] = flower.api("GET", "/dead").json()
    flower.start_worker()
    # 202: the worker is still starting.
    while (refused := flower.api("POST", f"/dead/{letter['id']}/replay")).status_code == 202:
        pass
    assert refused.status_code == 409
    assert "already merged" in refused.json()["error"]
    flower.until(flower.api("POST", f"/runs/{first}/undo").json()["id"], "succeeded")
    taken = flower.api("POST", f"/dead/{letter['id']}/replay")
    assert (taken.status_code, taken.json()["state"]) == (200, "replayed")
    flower.until(taken.json()["run_id"], "succeeded")
    assert flower.api("POST", f"/dead/{letter['id']}/replay").status_code == 409
    assert flower.api("POST", "/dead/999/replay").status_code == 404
    *refusals, noted = flower.place.services.ledger.audit_of_dead(letter["id"])
    assert {(entry.action, "already merged" in (entry.detail or "")) for entry in refusals} == {("refused again", True)}
    assert (noted.who, noted.action, noted.run_id) == ("API token", "replay", taken.json()["run_id"])


def test_nothing_is_done_for_whoever_has_no_token(flower: Site) -> None:
    run_id = broken(flower.place)
    path = f"{flower.url}/api/lern/runs/{run_id}/retry"
    assert httpx.post(path).status_code == 403
    assert httpx.post(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert httpx.post(path, headers={"Authorization": f"Bearer {flower.token}x"}).status_code == 401
    assert httpx.post(f"{flower.url}/run/{run_id}/retry", data={"_xsrf": "x"}).status_code == 403
    assert flower.place.run(run_id).state == "failed"


def test_a_stranger_s_name_for_this_machine_is_not_answered(flower: Site) -> None:
    broken(flower.place)
    for path in ("/runs", "/api/lern/runs", "/tasks", "/workers"):
        assert httpx.get(f"{flower.url}{path}", headers={"Host": "evil.test"}).status_code == 403
        assert httpx.get(f"{flower.url}{path}", headers={"Host": "localhost:5555"}).status_code == 200


def test_a_form_comes_through_a_proxy_that_calls_flower_by_another_name(flower: Site) -> None:
    outside = {"Origin": "https://lern.example.org"}
    for said, status in ((None, 403), ("cross-site", 403), ("same-site", 403), ("none", 403), ("same-origin", 303)):
        run_id = broken(flower.place, f"source {said}")
        with httpx.Client(base_url=flower.url) as window:
            window.get("/runs")
            headers = outside if said is None else {**outside, "Sec-Fetch-Site": said}
            # The browser's word does not stand for the token of our form.
            assert window.post(f"/run/{run_id}/retry", headers=headers).status_code == 403
            form = {"_xsrf": window.cookies["_xsrf"]}
            assert window.post(f"/run/{run_id}/retry", headers=headers, data=form).status_code == status
        assert flower.place.run(run_id).state == ("queued" if status == 303 else "failed")


def test_the_ledger_is_not_opened_to_other_sites_with_flower_s_own_answers(place: Place) -> None:
    with site(place, FLOWER_UNAUTHENTICATED_API="true") as made:
        made.start_flower()
        opened = "Access-Control-Allow-Origin"
        assert httpx.get(f"{made.url}/api/workers").headers[opened] == "*"
        for path in ("/runs", "/failed", "/dead", "/run/none", "/api/lern/runs", "/api/lern/nothing", "/task/none"):
            answer = httpx.get(made.url + path)
            assert not [name for name in answer.headers if name.startswith("access-control")], path


def test_with_authentication_everything_asks_who_is_there(place: Place) -> None:
    run_id = broken(place)
    environment = {"FLOWER_BASIC_AUTH": "asha:secret,ravi:secret", "LERN_FLOWER_READONLY_USERS": "ravi"}
    with site(place, **environment) as made:
        made.start_flower("--address=0.0.0.0")
        for path in ("/runs", f"/run/{run_id}", "/failed", "/dead", "/api/lern/runs", "/tasks", "/workers"):
            assert httpx.get(made.url + path).status_code == 401
            assert httpx.get(made.url + path, auth=("asha", "wrong")).status_code == 401
            assert httpx.get(made.url + path, auth=("ravi", "secret")).status_code == 200
        # Flower's own power over workers is no less than ours over runs.
        shutdown = f"{made.url}/api/worker/shutdown/nobody"
        assert httpx.post(shutdown, auth=("ravi", "secret")).status_code == 403
        assert httpx.post(shutdown, auth=("asha", "secret")).status_code == 404
        assert httpx.get(f"{made.url}/runs/retry", auth=("ravi", "secret")).status_code == 403
        assert made.api("GET", "/runs").status_code == 200


def test_under_a_prefix_every_link_has_it(place: Place) -> None:
    run_id = broken(place)
    with site(place) as made:
        made.environment["FLOWER_URL_PREFIX"], made.prefix = "flower", "/flower"
        made.start_flower()
        page = httpx.get(f"{made.url}/runs")
        assert page.status_code == 200
        assert f"/flower/run/{run_id}" in page.text
        assert 'href="/run' not in page.text
        assert httpx.get(f"{made.url}/lern/static/lern.css").status_code == 200
        assert made.place.run(run_id).state == "failed"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"LERN_FLOWER_ADDRESS": "0.0.0.0"}, "FLOWER_BASIC_AUTH"),  # noqa: S104 - that it is refused is tested
        ({"FLOWER_UNIX_SOCKET": "flower.sock"}, "FLOWER_BASIC_AUTH"),
        ({"FLOWER_CONF": "nowhere.py"}, "nowhere.py"),
        ({"LERN_FLOWER_READONLY_USERS": "ravi"}, "nobody has a name"),
        ({"LERN_FLOWER_READONLY_USERS": "rvai", "FLOWER_BASIC_AUTH": "ravi:x"}, "rvai is not a user"),
    ],
)
def test_what_would_be_open_does_not_start(place: Place, environment: dict[str, str], said: str) -> None:
    command = [sys.executable, "-m", "lern.flower", "--port=1"]
    variables = {"PATH": "/usr/bin:/bin", **place.settings.environ(), **environment}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert said in done.stderr
