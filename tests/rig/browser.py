"""A real browser for tests: Debian's Chromium, driven by Playwright; where one of them is missing, tests skip.

It knows how Chromium is started so that it asks nobody on the internet. Invariants:

1. Each test gets a window of its own, without anything kept from another one.
2. What the page's scripts complain about fails the test.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""


def missing() -> str:
    """Return why there is no browser, "" when there is one."""
    if not CHROMIUM:
        return "Chromium is not installed (Debian: apt install chromium)"
    return "" if find_spec("playwright") else "the package playwright is not installed"


@contextmanager
def chromium() -> Iterator[Any]:
    """Give a running Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def window(browser: Any, expected: str = "", **options: Any) -> Iterator[Any]:
    """Give a window, and fail when a script of its pages complained.

    Args:
        browser: from `chromium`.
        expected: what a complaint may hold.
        **options: Playwright's for a context: `viewport`, `color_scheme`, ...
    """
    context = browser.new_context(**{"viewport": {"width": 1300, "height": 900}, **options})
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.set_default_timeout(15000)
    try:
        yield page
    finally:
        context.close()
    unexpected = [each for each in complaints if not expected or expected not in each]
    assert not unexpected, unexpected
