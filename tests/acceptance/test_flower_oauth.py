"""Flower behind an OAuth provider: nobody is let in whom the provider does not know and the settings do not name."""

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from lern.embedded import EmbeddedRedis
from tests.acceptance.place import Place
from tests.acceptance.site import Site, site
from tests.servers.okta import SECRET, Okta, okta

ADMIN, GUEST, STRANGER = "asha@lern.test", "ravi@lern.test", "mallory@evil.test"


@pytest.fixture(scope="module")
def provider() -> Iterator[Okta]:
    with okta(ADMIN, GUEST, STRANGER) as running:
        yield running


@pytest.fixture(scope="module")
def flower(provider: Okta, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A Flower for everybody of lern.test, one of whom may only look."""
    directory = tmp_path_factory.mktemp("oauth")
    with EmbeddedRedis(directory) as redis:
        place = Place.at(directory, redis.url).create()
        with site(place) as made:
            made.choose_port()
            made.environment |= {
                "FLOWER_AUTH": ".*@lern.test",
                "FLOWER_AUTH_PROVIDER": "flower.views.auth.OktaLoginHandler",
                "FLOWER_OAUTH2_KEY": "lern",
                "FLOWER_OAUTH2_SECRET": SECRET,
                "FLOWER_OAUTH2_REDIRECT_URI": f"{made.url}/login",
                "FLOWER_OAUTH2_OKTA_BASE_URL": provider.url,
                "LERN_FLOWER_READONLY_USERS": GUEST,
            }
            # With somebody asking who is there it may be had from everywhere.
            made.start_flower("--address=0.0.0.0")
            yield made
        place.close()


@pytest.fixture
def failed_run(flower: Site, request: pytest.FixtureRequest) -> str:
    place = flower.place
    run = place.run(place.enter(f"source of {request.node.name}", f"target of {request.node.name}"))
    place.services.ledger.begin(run.id, run.steps[0], 1, "token", 1, 5)
    place.services.ledger.fail(run.id, run.steps[0], 1, "token", 2, "BAD_ROW", "a row", None)
    return run.id


@pytest.mark.parametrize("path", ["/runs", "/run/x", "/failed", "/dead", "/job/1f", "/tasks", "/workers", "/task/x"])
def test_whoever_is_not_signed_in_is_led_to_the_provider_and_shown_nothing(
    flower: Site, provider: Okta, path: str
) -> None:
    with httpx.Client(base_url=flower.url) as anonymous:
        answer = anonymous.get(path)
        assert (answer.status_code, httpx.URL(answer.headers["location"]).path) == (302, "/login")
        onward = anonymous.get(answer.headers["location"])
        assert onward.status_code == 302
        assert onward.headers["location"].startswith(f"{provider.url}/v1/authorize?")


def test_scripts_are_let_in_by_their_token_alone(flower: Site, failed_run: str) -> None:
    retry = f"{flower.url}/api/lern/runs/{failed_run}/retry"
    assert httpx.get(f"{flower.url}/api/lern/runs").status_code == 401
    assert httpx.post(retry).status_code in {401, 403}
    assert httpx.post(retry, cookies={"user": "asha@lern.test"}).status_code in {401, 403}
    assert flower.api("GET", "/runs?state=failed").json()[0]["id"] == failed_run


def test_an_answer_of_the_provider_that_nobody_asked_for_is_refused(flower: Site) -> None:
    for query in (f"code={ADMIN}", f"code={ADMIN}&state=guessed"):
        answer = httpx.get(f"{flower.url}/login?{query}")
        assert answer.status_code == 403
        assert "user" not in answer.cookies


def signed_in(page: Page, flower: Site, run_id: str, name: str) -> Page:
    """Open a run, and say at the provider who is there."""
    page.goto(f"{flower.url}/run/{run_id}")
    page.get_by_role("link", name=name).click()
    page.wait_for_url(f"{flower.url}/**")
    return page


def test_who_is_named_signs_in_acts_and_is_written_down(flower: Site, failed_run: str, page: Page) -> None:
    signed_in(page, flower, failed_run, ADMIN)
    page.goto(f"{flower.url}/run/{failed_run}")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#audit")).to_contain_text(ADMIN)
    assert [(entry.who, entry.action) for entry in flower.place.detail(failed_run).audit] == [(ADMIN, "retry")]


def test_who_may_only_look_sees_no_button(flower: Site, failed_run: str, browser: Browser) -> None:
    page = signed_in(browser.new_context().new_page(), flower, failed_run, GUEST)
    page.goto(f"{flower.url}/run/{failed_run}")
    expect(page.locator("#state")).to_be_visible()
    expect(page.get_by_role("button", name="Retry")).to_have_count(0)
    page.context.close()


def test_who_is_known_to_the_provider_but_not_named_is_refused(flower: Site, failed_run: str, page: Page) -> None:
    signed_in(page, flower, failed_run, STRANGER)
    expect(page.locator("body")).to_contain_text("Access denied")
    page.goto(f"{flower.url}/run/{failed_run}")
    assert "/v1/authorize" in page.url
