"""Tests of the process that espeak-ng speaks in."""

import multiprocessing
import os
import signal
from types import SimpleNamespace

import pytest

from text.errors import Unspeakable
from text.espeak import Espeak
from text.espeak_process import EspeakProcess, espeak_process


@pytest.fixture
def espeak():
    process = EspeakProcess()
    yield process
    process._end()


def test_a_text_that_crashes_espeak_is_refused_and_the_next_one_spoken(espeak):
    for text, beginning in (("a." * 500, r"'a\.a\."), ("s'" * 220, "\"s's's")):
        with pytest.raises(Unspeakable, match=f"espeak-ng crashes at {beginning}.*; write it in another way"):
            espeak("en-us", text)
        assert espeak("en-us", "hello")[0] == "h_ə_l_ˈoʊ"


def test_a_process_that_was_killed_is_begun_again(espeak):
    first = espeak("de", "hallo")
    os.kill(espeak._process.pid, signal.SIGKILL)
    assert espeak("de", "hallo") == first


def test_an_answer_that_was_not_waited_for_is_not_taken_for_the_next(espeak, monkeypatch):
    espeak("en-us", "hello")

    def interrupted(*_):
        raise KeyboardInterrupt

    close = espeak._process.stdout.close
    monkeypatch.setattr(espeak._process, "stdout", SimpleNamespace(readline=interrupted, close=close))
    with pytest.raises(KeyboardInterrupt):
        espeak("en-us", "goodbye")
    assert espeak("en-us", "hello")[0] == "h_ə_l_ˈoʊ"


def test_what_espeak_does_not_know_is_refused(espeak):
    with pytest.raises(Unspeakable, match=r"espeak-ng cannot speak 'hello' \(invalid voice code \"xx-none\"\)"):
        espeak("xx-none", "hello")


def test_a_forked_process_has_its_own():
    ours = Espeak("en-us").ipa("hello")
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        assert pool.map(_spoken, range(6)) == [(Espeak("de").ipa(f"hallo {i}"), True) for i in range(6)]
    assert Espeak("en-us").ipa("hello") == ours


def _spoken(number: int) -> tuple[str, bool]:
    ipa = Espeak("de").ipa(f"hallo {number}")
    with open(f"/proc/{espeak_process()._process.pid}/stat", encoding="ascii") as file:
        return ipa, int(file.read().rpartition(")")[2].split()[1]) == os.getpid()
