"""Offline recognisers: what is heard in a wave."""

import logging
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import pocketsphinx
import torch
from transformers import AutoConfig, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoProcessor

log = logging.getLogger(__name__)

RATE = 16000  # Hz, of the waves that every recogniser takes
WHISPER_SECONDS = 30.0
"""Whisper hears no more at once."""
WHISPER_CODES = {"cmn": "zh", "nb": "no"}
"""Whisper's names of languages that espeak-ng calls otherwise."""


class Recognizer(Protocol):
    """Waves to words."""

    name: str

    def knows(self, language: str) -> bool:
        """Whether it can hear this language (espeak-ng's name of it)."""

    def hear(self, wave: np.ndarray, language: str) -> str:
        """The words in a wave (samples,) at `RATE`, as the recogniser writes them; the same for the same wave."""


class PocketSphinx:
    """CMU PocketSphinx with the US English model that its wheel carries."""

    name = "pocketsphinx en-us"

    def __init__(self):
        # the mean over each utterance: a running one would make a result depend on the waves before
        self.decoder = pocketsphinx.Decoder(samprate=RATE, cmn="batch", loglevel="FATAL")

    def knows(self, language: str) -> bool:
        return language.split("-")[0] == "en"

    def hear(self, wave: np.ndarray, language: str) -> str:
        samples = (np.clip(wave, -1, 1) * 32767).astype(np.int16)
        self.decoder.reinit_feat()  # forgets the noise of the waves before
        self.decoder.start_utt()
        self.decoder.process_raw(samples.tobytes(), full_utt=True)
        self.decoder.end_utt()
        found = self.decoder.hyp()
        return found.hypstr if found else ""


class Whisper:
    """A Whisper model in a folder, greedily decoded."""

    def __init__(self, folder: Path):
        self.name, self.processor = folder.name, AutoProcessor.from_pretrained(folder, local_files_only=True)
        self.model = AutoModelForSpeechSeq2Seq.from_pretrained(folder, local_files_only=True).eval()
        settings = self.model.generation_config
        if not hasattr(settings, "is_multilingual"):
            raise ValueError("its generation_config.json does not say is_multilingual: take that file of a newer copy")
        self.languages = list(settings.lang_to_id) if settings.is_multilingual else []

    def knows(self, language: str) -> bool:
        return self._token(language) in self.languages if self.languages else language.split("-")[0] == "en"

    @torch.inference_mode()
    def hear(self, wave: np.ndarray, language: str) -> str:
        step = int(WHISPER_SECONDS * RATE)
        pieces = [wave[start : start + step] for start in range(0, len(wave), step)]
        features = self.processor(pieces, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True)
        options = {"language": self._token(language), "task": "transcribe"} if self.languages else {}
        ids = self.model.generate(**features, **options, do_sample=False, num_beams=1)
        return " ".join(self.processor.batch_decode(ids, skip_special_tokens=True))

    @staticmethod
    def _token(language: str) -> str:
        code = language.split("-")[0]
        return f"<|{WHISPER_CODES.get(code, code)}|>"


class CTC:
    """A CTC model (wav2vec 2.0, HuBERT, ...) in a folder; it is taken to know whatever language it is asked for."""

    def __init__(self, folder: Path):
        self.name, self.processor = folder.name, AutoProcessor.from_pretrained(folder, local_files_only=True)
        self.model = AutoModelForCTC.from_pretrained(folder, local_files_only=True).eval()

    def knows(self, language: str) -> bool:
        return True

    @torch.inference_mode()
    def hear(self, wave: np.ndarray, language: str) -> str:
        features = self.processor(wave, sampling_rate=RATE, return_tensors="pt")
        return self.processor.batch_decode(self.model(**features).logits.argmax(-1))[0]


@lru_cache
def load_recognizer(folder: str | Path | None = None) -> Recognizer:
    """PocketSphinx, or the Whisper or CTC model in a folder in transformers format.

    ValueError if the folder holds no model of these kinds.
    """
    if folder is None:
        return PocketSphinx()
    folder = Path(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = Whisper if config.model_type == "whisper" else CTC
        return kind(folder)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder}: no Whisper or CTC model in transformers format ({reason})") from error
