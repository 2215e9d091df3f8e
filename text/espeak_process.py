"""espeak-ng at arm's length: some texts (`"a." * 500`, a Greek ϖ in Portuguese) make its library write over the stack
or read where nothing is, which must not end a long run or a server. It speaks in a process of its own
(`text.espeak_worker`), and such a text is refused."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path

from text.errors import Unspeakable, quoted


class EspeakProcess:
    """The process, begun when it is first needed and again after a crash; threads take turns."""

    def __init__(self):
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="espeak-ng-")  # copies of the library, also after a crash
        atexit.register(self._end)

    def __call__(self, voice: str, text: str) -> tuple[str, str]:
        """The IPA as espeak-ng writes it and, of Mandarin, its mnemonics. Unspeakable if it crashes at the text."""
        with self._lock:
            try:
                line = json.dumps([voice, text]) + "\n"
                answer = self._ask(line) or self._ask(line)  # it may have been an earlier text's damage, or killed
            except BaseException:  # what was asked might be answered later
                self._end()
                raise
        if answer is None:
            raise Unspeakable(f"espeak-ng crashes at {quoted(text)}; write it in another way")
        if "error" in answer:
            raise Unspeakable(f"espeak-ng cannot speak {quoted(text)} ({answer['error']}); write it in another way")
        return answer["ipa"], answer["mnemonics"]

    def _ask(self, line: str) -> dict[str, str] | None:
        """The answer; None after a crash."""
        if self._process is None:
            self._begin()
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer.endswith("\n"):
            self._end()
            return None
        return json.loads(answer)

    def _begin(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("espeak_worker.py"))], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="ascii",
            env=os.environ | {"TMPDIR": self._folder.name},
            start_new_session=True,  # Ctrl-C is for the run, which ends the process when it ends
        )

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None


@cache
def espeak_process() -> EspeakProcess:
    """The one of this process."""
    return EspeakProcess()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=espeak_process.cache_clear)
