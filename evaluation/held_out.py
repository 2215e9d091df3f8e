"""How a model in training speaks: the figures of evaluate.py on a fixed handful of held-out sentences, and a score by
which the best checkpoint is chosen."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from checkpoints import require_checkpoint, saved_steps
from config import Config, parse_config
from data_utils import in_turns, read_filelist
from evaluation.quality import measure_utterance, summarise
from evaluation.recognition import load_recognizer
from mel_processing import griffin_lim, load_audio
from models import load_vocoder

log = logging.getLogger(__name__)

WORST_OPINION, BEST_OPINION = 1.0, 5.0
"""Of DNSMOS; the worst is for what no speech is heard in."""


class HeldOutSpeech:
    """Sentences whose clips are not trained on; a stage speaks or copies them again and again as it learns."""

    def __init__(self, paths: Sequence[str | Path], config: Config, stage_name: str):
        """`paths`: of the clips that can be spoken. ValueError if data.validation_text has the text of none of them, or
        if there is no recogniser in train.<stage_name>.recognizer."""
        self.audio, stage = config.audio, getattr(config.train, stage_name)
        texts = {str(clip.path): clip for clip in read_filelist(config.data.validation_text)}
        written = [i for i, path in enumerate(paths) if str(path) in texts]
        if not written:
            raise ValueError(f"{config.data.validation_text}: has the text of none of the clips of "
                             f"{config.data.validation_filelist}; set data.validation_text to the filelist that it was "
                             "made from")
        turns = in_turns([texts[str(paths[i])].speaker for i in written], stage.evaluate)
        self.indices = sorted(written[turn] for turn in turns)
        """Which of the paths are to be spoken, in ascending order; their speakers took turns."""
        self.clips = [texts[str(paths[i])] for i in self.indices]
        self.recognizer = load_recognizer(stage.recognizer)
        unheard = sorted({clip.language for clip in self.clips if not self.recognizer.knows(clip.language)})
        if unheard:
            log.warning("%s knows no %s: those sentences have no error rates; train.%s.recognizer takes the folder of "
                        "a Whisper or CTC model", self.recognizer.name, ", ".join(unheard), stage_name)
        self.name = f"{len(self.clips)} sentences heard by {self.recognizer.name}"
        """What the score is of; scores of different names cannot be compared."""

    def measure(self, waves: Sequence[Tensor], copies: bool = False) -> dict[str, float]:
        """The mean of every figure of waves (samples,), one a sentence, as `spoken/<name>`; and their `score`.

        `copies`: the waves were made of the recordings themselves, in time with them.
        """
        utterances = [
            measure_utterance(
                wave, clip.text, self.audio.sample_rate, clip.language, self.recognizer,
                load_audio(clip.path, self.audio.sample_rate), copy_audio=self.audio if copies else None,
            )
            for wave, clip in zip(waves, self.clips, strict=True)
        ]
        means = {f"spoken/{name}": value.mean for name, value in summarise(utterances).items()}
        return means | {"score": score(utterances)}


def score(utterances: Sequence[Mapping]) -> float:
    """Character error rate first, then DNSMOS, in one number, lower is better: the error rate in whole hundredths, and,
    to decide between equal ones, a thousandth of what DNSMOS lacks to its best. Without error rates DNSMOS alone."""
    summary = summarise(utterances)
    errors = round(summary["cer"].mean, 2) if "cer" in summary else 0.0
    opinions = [figures.get("dnsmos") or WORST_OPINION for figures in utterances]
    return errors + (BEST_OPINION - sum(opinions) / len(opinions)) / 1000


def spoken_by_model(
    paths: Sequence[str | Path], config: Config, stage_name: str, model: str
) -> tuple[HeldOutSpeech, Callable[[Tensor], Tensor], str]:
    """The sentences of clips for a stage that makes mels, what makes waves of these (see `wave_maker`), and what the
    score is of."""
    speech = HeldOutSpeech(paths, config, stage_name)
    to_wave, maker = wave_maker(config, model)
    return speech, to_wave, f"{speech.name}, {maker}"


def wave_maker(config: Config, model: str) -> tuple[Callable[[Tensor], Tensor], str]:
    """Log-mel (1, n_mels, frames) -> wave (samples,) by the model's newest vocoder, by Griffin-Lim if it has none yet;
    and which of them it is. ValueError if the vocoder's mels are of another audio section."""
    folder = Path("checkpoints") / model / "vocoder"
    if not saved_steps(folder):
        return lambda mel: griffin_lim(mel, config.audio)[0], "Griffin-Lim"
    checkpoint = require_checkpoint(folder, f"python3 train_vocoder.py -c CONFIG -m {model}")
    stored = parse_config(checkpoint["config"], f"the config in {folder}")
    if stored.audio != config.audio:
        raise ValueError(f"{folder}: was trained with another audio section than this config's; use the config it was "
                         "trained with, or another model name")
    vocoder = load_vocoder(stored, checkpoint, folder).to("cuda" if torch.cuda.is_available() else "cpu")
    return lambda mel: vocoder(mel).wave[0], f"vocoder of step {checkpoint['step']}"
