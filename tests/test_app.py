"""The page in a real browser: one server and one browser for all of them, hence one test process."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, fetched, heard, opened_browser, opened_page, press_speak
from conftest import run_script
from playwright.sync_api import expect
from torch.utils.tensorboard import SummaryWriter

import app
from synthesize import DEFAULT_VOICE, load_synthesizer
from webpage import training_tab
from webpage.backend import Backend
from webpage.page import create_app

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
]
TEXT = "This is a test. The river was quiet."


def write_step(writer: SummaryWriter, step: int) -> None:
    for part in ("training", "validation"):
        writer.add_scalar(f"{part}/mel", 1 / step, step)
    writer.add_scalar("training/steps_per_second", 2.0, step)
    writer.add_audio("generated", 0.1 * torch.sin(torch.arange(11025) / 9)[None], step, 22050)
    writer.add_image("mel", torch.rand(3, 8, 8), step)
    writer.flush()


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    with SummaryWriter(tmp_path_factory.mktemp("logs") / "small" / "vocoder") as writer:
        for step in range(1, 31):
            write_step(writer, step)
        yield writer


@pytest.fixture(scope="module")
def address(_built_chain, writer):
    """Where the page is, with the voice that comes along and the tiny token model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_tab, "REFRESH_SECONDS", 1.0)
        backend = Backend(logs=Path(writer.log_dir).parents[1])
        server, thread, address = app.serve(create_app(backend), "127.0.0.1", 0)
        backend.load([DEFAULT_VOICE, "tiny"], _built_chain / "checkpoints")
        backend.models.abilities("tiny")  # compiles its step: no time of a browser's patience
        yield address
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def browser():
    with opened_browser() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    page = opened_page(browser, address)
    yield page
    page.close()


def same(samples: np.ndarray, text: str, language: str) -> None:
    expected = load_synthesizer().speak(text, language).samples.numpy()
    assert samples.shape == expected.shape
    np.testing.assert_allclose(samples, expected, atol=1e-4)  # 16 bits


def test_type_press_hear(browser, address):
    asked = []
    page = opened_page(browser, address)
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    expect(page.locator("#speak")).to_have_text("Speak")
    press_speak(page, TEXT)
    samples, rate = heard(page, "#sound")
    assert rate == 22050
    same(samples, TEXT, "en-us")
    played = page.locator("#sound speech-player")
    assert float(played.get_attribute("data-heard")) == pytest.approx(len(samples) / rate, abs=1e-3)
    assert played.evaluate("player => player.audio.duration") == pytest.approx(len(samples) / rate, abs=0.01)
    expect(page.locator("#status")).to_contain_text("of speech in")
    expect(page.locator("#picture img")).to_be_visible()
    files = {link.get_attribute("download"): fetched(page, link.get_attribute("href"))
             for link in page.locator("#downloads a").all()}
    assert files.keys() == {"default.wav", "default.json", "default.srt", "default.TextGrid"}
    words = json.loads(files["default.json"])["words"]
    assert len(words) == len(TEXT.split())
    page.get_by_text("When each word is said").click()
    expect(page.locator("#words")).to_contain_text(words[0]["label"])
    # nothing is fetched from elsewhere: it works without a network
    assert asked
    assert all(url.startswith((address, "data:", "blob:")) for url in asked)
    page.close()


def test_an_example_in_another_language(page):
    page.get_by_role("button", name="German (de)").click()
    expect(page.locator("#speaker input")).to_have_value("whoever speaks it (kerstin)")
    text = page.locator("#text textarea").input_value()
    assert "Guten Tag" in text
    press_speak(page)
    same(heard(page, "#sound")[0], text, "de")


def test_a_mistake_is_told_and_the_page_goes_on(page):
    page.click("#speak")
    expect(page.get_by_test_id("toast-text")).to_contain_text("write a text to speak first")
    page.get_by_test_id("toast-close").click()
    page.fill("#text textarea", "word " * 1000)
    page.click("#speak")
    expect(page.get_by_test_id("toast-text")).to_contain_text("is too long for this page")
    press_speak(page, "It goes on.")
    same(heard(page, "#sound")[0], "It goes on.", "en-us")


def test_a_language_model_has_other_controls(page, tmp_path):
    expect(page.locator("#rate")).to_be_visible()
    expect(page.locator("#temperature")).to_be_hidden()
    page.click("#model input")
    page.get_by_role("option", name="tiny").click()
    expect(page.locator("#temperature")).to_be_visible()
    expect(page.locator("#rate")).to_be_hidden()
    page.fill("#seed input", "3")
    press_speak(page, "Hello.")
    first, _ = heard(page, "#sound")
    press_speak(page)
    again, _ = heard(page, "#sound")
    np.testing.assert_array_equal(first, again)

    page.get_by_text("In the voice of a recording").click()
    (tmp_path / "broken.wav").write_bytes(b"RIFF of something else")
    page.set_input_files("#reference input[type=file]", tmp_path / "broken.wav")
    expect(page.locator("#reference")).to_contain_text("broken.wav")
    page.click("#speak")
    expect(page.get_by_test_id("toast-text")).to_contain_text("broken.wav: not readable as audio")


def test_the_training_tab_follows_a_run(page, writer):
    page.get_by_role("tab", name="Training").click()
    expect(page.locator("#run input")).to_have_value("small/vocoder")
    expect(page.locator("#progress")).to_contain_text("step 30")
    picture = page.locator("#curves img")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 800
    expect(page.locator("#samples")).to_contain_text("generated, step 30")
    samples, rate = heard(page, "#samples")
    assert (len(samples), rate) == (11025, 22050)
    assert page.locator("#samples img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
    before = picture.get_attribute("src")
    write_step(writer, 31)
    expect(page.locator("#progress")).to_contain_text("step 31")
    expect(page.locator("#samples")).to_contain_text("generated, step 31")
    expect(picture).not_to_have_attribute("src", before)


def test_two_models_are_compared(page):
    page.get_by_role("tab", name="Compare").click()
    page.fill("#compared-text input, #compared-text textarea", "Hello.")
    expect(page.locator("#compared")).to_contain_text("tiny")
    page.click("#compare")
    page.wait_for_selector("#compared-mels img")
    expect(page.locator("#cards speech-player")).to_have_count(2)
    same(heard(page, "#cards .card:nth-child(1)")[0], "Hello.", "en-us")
    assert len(heard(page, "#cards .card:nth-child(2)")[0]) > 2000
    ends = page.locator("#cards .card").nth(1).locator("dt:text-is('ended by') + dd")
    expect(ends).to_have_text(re.compile("stop|length|stuck|silent"))
    # where one cannot, the other still speaks
    page.fill("#compared-speaker input", "kerstin")
    page.keyboard.press("Enter")
    page.click("#compare")
    expect(page.locator("#cards .wrong")).to_contain_text("speaker 'kerstin' is not among those this model learned")
    expect(page.locator("#cards speech-player")).to_have_count(1)


def test_a_port_in_use_and_a_model_that_is_not_there(caplog, capsys, address):
    port = address.rpartition(":")[2]
    with pytest.raises(SystemExit):
        run_script("app", "--port", port)
    assert f"error: cannot listen on 127.0.0.1:{port} (" in capsys.readouterr().err
    with caplog.at_level(logging.WARNING), pytest.raises(SystemExit):
        run_script("app", "--port", "0", "-m", "nobody")
    assert "no checkpoint; train one first" in capsys.readouterr().err
