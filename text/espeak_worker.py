"""Runs espeak-ng in a process of its own, started by `text.espeak_process`.

Lines of JSON come in, `[voice, text]`, and go out, `{"ipa": ..., "mnemonics": ...}` or `{"error": ...}`. espeak-ng's
mnemonics, its own names of phonemes, are given for Mandarin alone.
"""

import ctypes
import json
import signal
import sys

import espeakng_loader
from phonemizer.backend.espeak.api import EspeakAPI
from phonemizer.backend.espeak.wrapper import EspeakWrapper

CPU_SECONDS = 30
"""For a text, before the process is ended by SIGVTALRM."""


class Voice:
    """A voice of espeak-ng, with its own copy of the library, which keeps state."""

    def __init__(self, name: str):
        self._wrapper = EspeakWrapper()
        self._wrapper.set_voice(name)
        self._api = None
        if name.startswith("cmn"):  # phonemizer does not offer mnemonics
            self._api = EspeakAPI(espeakng_loader.get_library_path(), espeakng_loader.get_data_path())
            identifiers = {voice.language: voice.identifier for voice in self._wrapper.available_voices()}
            self._api.set_voice_by_name(identifiers[name].encode())

    def answer(self, text: str) -> dict[str, str]:
        return {"ipa": self._wrapper.text_to_phonemes(text), "mnemonics": self._mnemonics(text) if self._api else ""}

    def _mnemonics(self, text: str) -> str:
        pointer = ctypes.pointer(ctypes.c_char_p(text.encode()))
        clauses = []
        while pointer.contents.value is not None:
            clauses.append(self._api.text_to_phonemes(pointer, 1, ord("_") << 8) or b"")
        return " ".join(clause.decode() for clause in clauses)


def main() -> None:
    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    voices: dict[str, Voice] = {}
    for line in sys.stdin:
        name, text = json.loads(line)
        if hasattr(signal, "setitimer"):  # not on Windows
            signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
        try:
            if name not in voices:
                voices[name] = Voice(name)
            answer = voices[name].answer(text)
        except (RuntimeError, ValueError) as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
