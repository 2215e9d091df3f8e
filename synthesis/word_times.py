"""When a system that has no durations said each word: its speech, aligned with its IPA as a recording would be."""

from dataclasses import replace
from pathlib import Path

import torch

from alignments.clips import UNKNOWN_SPEAKER, symbol_durations
from alignments.textgrids import word_and_phone_intervals
from config import AudioConfig, parse_config
from mel_processing import log_mel
from models import build_aligner, load_network
from synthesis.speech import Part
from text.phonemes import alignment_units
from voice_folder import require_stage


class WordTimes:
    """The trained aligner of a model."""

    def __init__(self, folder: Path, audio: AudioConfig, device: torch.device):
        """`folder`: the stage's. ValueError if it was trained with another audio section than `audio`."""
        data = require_stage(folder, f"python3 align.py -c CONFIG -m {folder.parent.name}")
        config = parse_config(data["config"], f"the config in {folder}")
        if config.audio != audio:
            raise ValueError(f"{folder.parent}: aligner and vocoder were trained with different audio sections; move "
                             f"{folder} away, or train one that fits: python3 align.py -c CONFIG -m MODEL")
        self.audio, self.device = audio, device
        self.speakers, self.letters = data["speakers"], set(data["letters"])
        self.ids = {symbol: i for i, symbol in enumerate(data["text"]["symbols"])}
        self.aligner = load_network(build_aligner(config, data), data, folder).to(device)

    @torch.inference_mode()
    def timed(self, part: Part, speaker: str) -> Part:
        """The part with its words and phones, or with why they have no times: sounds that the aligner never heard, or
        more of them than fit into the speech."""
        units = alignment_units(part.ipa)
        if strange := {unit.symbol for unit in units} - self.letters:
            return replace(part, untimed=f"its aligner was trained without the sounds {' '.join(sorted(strange))}")
        mel = log_mel(part.samples[None].to(self.device), self.audio)
        phones, frames = sum(not unit.optional for unit in units), mel.shape[2]
        if not 1 <= phones < frames:
            return replace(part, untimed=f"{phones} phones in {frames} mel frames")

        def ids(*values: int) -> torch.Tensor:
            return torch.tensor(values, device=self.device)

        known = 1 + self.speakers.index(speaker) if speaker in self.speakers else UNKNOWN_SPEAKER
        of_units, _ = self.aligner.align(
            self.aligner(mel, ids(frames), ids(known)), ids(frames), ids(*(self.ids[u.symbol] for u in units))[None],
            ids(len(units)), ids(*(unit.optional for unit in units))[None],
        )
        durations = symbol_durations(units, of_units[0].tolist())
        words, phones = word_and_phone_intervals(part.ipa, durations, part.seconds, self.audio)
        return replace(part, words=words, phones=phones)
