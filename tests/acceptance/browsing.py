"""A Chromium without a screen: the machine's own, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.servers.server import unavailable

DESK = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 800}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser; where there is none the test is skipped, and fails in CI."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        unavailable("no chromium on the PATH (Debian's package `chromium`).")
    # As root Chromium cannot make its sandbox; the pages are our own.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()
