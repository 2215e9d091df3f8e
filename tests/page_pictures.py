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

import psutil
import requests
from browser import opened_browser, opened_page, press_speak
from PIL import Image
from playwright.sync_api import Page, expect

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
TEXT = "The birch canoe slid on the smooth planks, and the river was quiet."
COLOURS = 160  # of a picture, so that it is small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--port", type=int, default=7861)
    parser.add_argument("--run", help="the training run to show, as it is called on the page")
    parser.add_argument("--compare", nargs="+", default=[], help="models to compare, as they are called on the page")
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
        report("answers", server.pid, started)
        with opened_browser() as browser:
            page = opened_page(browser, address)
            report("can speak", server.pid, started)
            sounds = sorted(first_sound(page) for _ in range(options.times))
            log.info("first sound after the press: median %.2f s, %.2f to %.2f s", statistics.median(sounds), sounds[0],
                     sounds[-1])
            take(page, options.output / "page_speak.png")
            page.get_by_role("tab", name="Training").click()
            page.wait_for_selector("#curves img")
            if options.run:
                before = page.locator("#curves img").get_attribute("src")
                page.click("#run input")
                page.get_by_role("option", name=options.run, exact=True).click()
                expect(page.locator("#curves img")).not_to_have_attribute("src", before)
            take(page, options.output / "page_training.png")
            page.get_by_role("tab", name="Compare").click()
            if options.compare:
                page.locator("#compared").get_by_role("button", name="Clear").click()
            for label in options.compare:
                page.click("#compared input")
                page.get_by_role("option", name=label, exact=True).click()
            page.locator("#compared input").blur()  # its list lies over the button
            page.fill("#compared-text input, #compared-text textarea", TEXT)
            page.click("#compare")
            page.wait_for_selector("#compared-mels img")
            take(page, options.output / "page_compare.png")
    finally:
        server.terminate()
        server.wait()


def report(what: str, process: int, started: float) -> None:
    """How long it took, and how much of that the server worked, which a busy machine makes no longer."""
    used = psutil.Process(process).cpu_times()
    log.info("it %s %.1f s after the command, %.1f s of CPU time", what, time.perf_counter() - started,
             used.user + used.system)


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
