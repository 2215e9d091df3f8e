"""Starts the page as a user does, measures how soon it is there and speaks, and takes the pictures in docs/.

    python3 tests/page_pictures.py -o docs
"""

import argparse
import logging
import statistics
import subprocess
import sys
import time
from pathlib import Path

import requests
from browser import opened_browser, opened_page, press_speak
from PIL import Image
from playwright.sync_api import Page

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
TEXT = "The birch canoe slid on the smooth planks, and the river was quiet."
COLOURS = 128  # of a picture, so that it is small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--port", type=int, default=7861)
    parser.add_argument("--run", help="the training run to show, as it is called on the page")
    parser.add_argument("--times", type=int, default=10, help="how often the first sound is measured")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    address, started = f"http://127.0.0.1:{options.port}", time.perf_counter()
    server = subprocess.Popen([sys.executable, "app.py", "--port", str(options.port)], cwd=ROOT)
    try:
        while not answers(address):
            if server.poll() is not None:
                raise SystemExit("the page did not start")
            time.sleep(0.05)
        log.info("it answers %.1f s after the command", time.perf_counter() - started)
        with opened_browser() as browser:
            page = opened_page(browser, address)
            log.info("it can speak %.1f s after the command", time.perf_counter() - started)
            sounds = sorted(first_sound(page) for _ in range(options.times))
            log.info("first sound after the press: median %.2f s, %.2f to %.2f s", statistics.median(sounds), sounds[0],
                     sounds[-1])
            take(page, options.output / "page_speak.png")
            page.get_by_role("tab", name="Training").click()
            page.wait_for_selector("#curves img")
            if options.run:
                page.click("#run input")
                page.get_by_role("option", name=options.run, exact=True).click()
                page.wait_for_timeout(3000)
            take(page, options.output / "page_training.png")
            page.get_by_role("tab", name="Compare").click()
            page.fill("#compared-text input, #compared-text textarea", TEXT)
            page.click("#compare")
            page.wait_for_selector("#compared-mels img")
            take(page, options.output / "page_compare.png")
    finally:
        server.terminate()
        server.wait()


def answers(address: str) -> bool:
    """Whether the page is there."""
    try:
        return requests.get(address, timeout=10).ok
    except requests.ConnectionError:
        return False


def first_sound(page: Page) -> float:
    """Seconds from the press to the first sound, as the browser plays it."""
    pressed = page.evaluate("performance.now()")
    press_speak(page, TEXT)
    at = page.locator("#sound speech-player").get_attribute("data-first-sound")
    return (float(at) - pressed) / 1000


def take(page: Page, path: Path) -> None:
    """A picture of the whole page, with few colours."""
    page.wait_for_timeout(1500)
    page.screenshot(path=path, full_page=True)
    Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)
    log.info("%s: %d kB", path, path.stat().st_size // 1000)


if __name__ == "__main__":
    main()
