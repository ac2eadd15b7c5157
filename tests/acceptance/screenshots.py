"""The pictures in docs/images, taken of a site like an installation in the middle of its day.

python -m tests.acceptance.screenshots docs/images
"""

import sys
import tempfile
from pathlib import Path
from typing import Final

from playwright.sync_api import Page, expect

from lern.embedded import EmbeddedRedis
from tests.acceptance.browsing import DESK, PHONE, chromium
from tests.acceptance.place import Place
from tests.acceptance.site import Site, site
from tests.accounts import RELATIONS, two_accounts

NAMES: Final = ("asha", "ravi", "meena", "kiran", "divya", "arjun", "lakshmi", "imran", "sunita", "joseph")
ON_A_PHONE: Final = ("runs", "failed", "run-failed", "confirm")


def prepare(place: Place) -> dict[str, str]:
    """Make runs of every state, and dead letters; gives the paths of the pages by name."""
    merged = ""
    for number, name in enumerate(NAMES):
        old, new = f"{name}-school", f"{name}-state"
        place.load(two_accounts(old, new), RELATIONS)
        if number in {3, 6, 7}:
            place.sql("UPDATE user_enrolments SET progress = 'three' WHERE userid = ?", old)
        run_id = place.enter(old, new, f"LMS.{number}")
        if number == 5:
            with place.services.locks.hold([new], "token", wait=1, holder="another step"):
                place.carry_out(run_id)
        else:
            place.carry_out(run_id)
        merged = run_id if number == 4 else merged
    place.enter("asha-school", "ravi-state", "LMS.90")
    place.enter("ravi-school", "meena-state", "LMS.91")
    place.enter("asha-state", "asha-school", "LMS.92")
    for name in ("pooja", "vikram"):
        place.enter(f"{name}-school", f"{name}-state", name)
    place.services.broker.delete(place.settings.queue)
    [failed, *_] = [run.id for run in place.services.ledger.runs(state="failed")]
    chunks = {head.step: head.id for head in place.services.ledger.chunk_heads(merged)}
    [letter, *_] = place.services.ledger.dead_letters()
    return {
        "runs": "/runs",
        "failed": "/failed",
        "waiting": "/waiting",
        "dead": "/dead",
        "dead-letter": f"/dead/{letter.id}",
        "dead-correct": f"/dead/{letter.id}",
        "run": f"/run/{merged}",
        "run-failed": f"/run/{failed}",
        "rows": f"/run/{merged}/rows/{chunks['merge.enrolments']}",
        "confirm": "/runs/retry?reason=BAD_ROW",
        "undo": f"/run/{merged}/undo",
        "select": "/runs?state=failed",
    }


def take(made: Site, pages: dict[str, str], directory: Path) -> None:
    """Take a picture of every page, for a desk and for a phone."""
    with chromium() as browser:
        for kind, size, names in (("", DESK, pages.keys()), ("-phone", PHONE, ON_A_PHONE)):
            context = browser.new_context(viewport=size)  # type: ignore[arg-type]
            page = context.new_page()
            for name in names:
                page.goto(made.url + pages[name])
                page.locator("main").wait_for()
                if name == "dead-correct":
                    page.get_by_text("Correct it").click()
                    page.get_by_role("button", name="Replay corrected").scroll_into_view_if_needed()
                page.screenshot(path=directory / f"flower-{name}{kind}.png")
            context.close()
        carry_on(made, browser.new_page(viewport=DESK), pages["run-failed"], directory)  # type: ignore[arg-type]


def carry_on(made: Site, page: Page, failed: str, directory: Path) -> None:
    """Retry what failed, and take pictures of the job and, when it has failed again, of Flower's page of the task."""
    page.goto(f"{made.url}/runs/retry?reason=BAD_ROW")
    page.locator("#confirm").click()
    expect(page.get_by_text("Done, in the name of")).to_be_visible()
    page.screenshot(path=directory / "flower-job.png")
    made.start_worker()
    page.goto(made.url + failed)
    expect(page.locator("#state")).to_have_text("failed", timeout=30_000)
    page.locator("[data-step='merge.enrolments'] a").click()
    # Flower hears of a task a moment after it was carried out.
    while "/task/" not in page.url:
        page.locator("[data-step='merge.enrolments'] a").click()
    expect(page.get_by_role("button", name="Retry")).to_be_visible()
    page.screenshot(path=directory / "flower-task.png")


def main(directory: Path) -> None:
    """Make the site, take the pictures."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, EmbeddedRedis(Path(name)) as redis:
        place = Place.at(Path(name), redis.url).create()
        pages = prepare(place)
        with site(place) as made:
            made.start_flower()
            take(made, pages, directory)
        place.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
