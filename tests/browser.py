"""A real browser for the page: Debian's `chromium`, steered by Playwright."""

import base64
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import soundfile
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 120.0  # to wait for anything: other tests run beside these
LOAD = "async (url) => { const bytes = new Uint8Array(await (await fetch(url)).arrayBuffer());" \
       " return btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), '')); }"


@contextmanager
def opened_browser() -> Iterator[Browser]:
    """Chromium without a window; root may not use its sandbox."""
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*sandbox, "--disable-dev-shm-usage"])
        yield browser
        browser.close()


def opened_page(browser: Browser, address: str, width: int = 1200) -> Page:
    """The page, when it can be used."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(1000 * SECONDS)
    expect.set_options(timeout=1000 * SECONDS)
    page.goto(address)
    expect(page.locator("#speak")).to_have_text("Speak")
    expect(page.locator("#language input")).not_to_have_value("")
    return page


def press_speak(page: Page, text: str | None = None) -> None:
    """Has the text spoken, or the one that is there, and waits for all that comes of it."""
    if text is not None:
        page.fill("#text textarea", text)
    page.evaluate("document.querySelector('#downloads .downloads')?.remove()")
    page.click("#speak")
    page.wait_for_selector("#downloads a")
    page.wait_for_selector("#sound speech-player[data-state=whole]")


def fetched(page: Page, url: str) -> bytes:
    """What the page's own browser is given for an address."""
    return base64.b64decode(page.evaluate(LOAD, url))


def heard(page: Page, player: str) -> tuple[np.ndarray, int]:
    """The wav that a player's audio element holds: samples (n,), rate."""
    source = page.locator(f"{player} audio").first.evaluate("audio => audio.currentSrc || audio.src")
    return soundfile.read(io.BytesIO(fetched(page, source)), dtype="float32")
