"""Places to merge in: a data directory of its own for each test, and a Redis that nobody else uses."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from lern.embedded import EmbeddedRedis
from tests.acceptance.browsing import DESK, chromium
from tests.acceptance.place import Place
from tests.acceptance.workers import BRISK, Workers, workers_of
from tests.servers.redis import RedisServer

MakePlace = Callable[..., Place]


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """A directory in memory, where there is one: what is copied hundreds of times need not reach a disk."""
    memory = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
    made = Path(tempfile.mkdtemp(prefix="lern-", dir=memory if memory.is_dir() else None))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def make_place(quick_path: Path, own_redis: RedisServer) -> Iterator[MakePlace]:
    """Makes places with the settings given, each in a directory of its own; they share the test's Redis."""
    with ExitStack() as ends:

        def make(**settings: str) -> Place:
            made = Place.at(Path(tempfile.mkdtemp(dir=quick_path)), own_redis.url, **settings).create()
            ends.callback(made.close)
            return made

        yield make


@pytest.fixture
def place(make_place: MakePlace) -> Place:
    """A place with the settings as they are by default."""
    return make_place()


@pytest.fixture
def workers(request: pytest.FixtureRequest, quick_path: Path) -> Iterator[Workers]:
    """Workers on the embedded default, in a place where waiting is short; none has been started.

    A test may give settings of its own, as the fixture's parameter.
    """
    directory = quick_path / "data"
    with EmbeddedRedis(directory) as redis:
        place = Place.at(directory, redis.url, **{**BRISK, **getattr(request, "param", {})}).create()
        with workers_of(place) as made:
            yield made
        place.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser, of which every test has a window of its own."""
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window of a desk's size. Nothing that others have written may run in it, and our own must not fail."""
    context = browser.new_context(viewport=DESK)  # type: ignore[arg-type]
    made = context.new_page()
    errors: list[str] = []
    made.on("pageerror", lambda error: errors.append(str(error)))
    yield made
    assert made.evaluate("window.bad") is None
    context.close()
    assert errors == []
