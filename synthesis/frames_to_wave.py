"""Codes or states of a language model, or mel, as a wave: whole, or as they are being made.

A sample that does not depend on what is still to be said is the same in both: the network is run again on as many
frames as such samples see, and nothing is faded into anything. How far they see is measured on the network itself.
What rounding makes of the number of frames stays under 1e-5 of full scale. A vocoder whose phase runs on from the
beginning of a clip (harmonic_vocos) sees all before, and would add up the rounding of its f0: `FrameConv` has none.
"""

import logging
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from config import AudioConfig
from mel_processing import samples_for
from models.vocoder import Vocoder

log = logging.getLogger(__name__)

PROBES = (64, 128, 256, 512)
"""Code frames; a network that sees further than half of the last is taken to see everything."""
CHUNK_SECONDS = 1.0
"""Of a stream: the first chunk is as short as can be, each one twice as long as the one before up to this."""


@dataclass(frozen=True)
class Reach:
    """How many samples of code frames a sample sees; None: all there are."""

    before: int | None
    after: int | None


class NoDecoder(nn.Module):
    """Of `FramesToWave` where the frames are mel already."""

    def __init__(self, n_mels: int):
        super().__init__()
        self.feature_size = n_mels

    def features(self, mel: Tensor) -> Tensor:
        """(B, n_mels, T) -> (B, T, n_mels)."""
        return mel.transpose(1, 2)

    def mel_from_features(self, x: Tensor, lengths: Tensor, speaker: Tensor, start: Tensor, n_frames: int) -> Tensor:
        """(B, T, n_mels) -> (B, n_mels, T)."""
        return x.transpose(1, 2)


class FramesToWave:
    """A decoder (codes or states -> mel, see `FrameDecoder`) and a vocoder, for one clip at a time."""

    def __init__(self, decoder: nn.Module, vocoder: Vocoder, audio: AudioConfig, frame_rate: float):
        """`frame_rate`: code frames a second."""
        self.decoder, self.vocoder, self.audio = decoder, vocoder, audio
        ratio = audio.frame_rate / frame_rate
        self.whole_ratio = math.isclose(ratio, round(ratio), rel_tol=1e-6)
        self.ratio = round(ratio) if self.whole_ratio else ratio  # mel frames a code frame

    @torch.inference_mode()
    def mel(self, frames: Tensor, speaker: int) -> Tensor:
        """codes (n_codebooks, T) or states (state_size, T), and a speaker of the decoder -> (1, n_mels, mel frames)."""
        return self._mel(self.decoder.features(frames[None]), speaker, 0.0, self.mel_frames(frames.shape[1]))

    @torch.inference_mode()
    def wave(self, frames: Tensor, speaker: int) -> Tensor:
        """The same -> (samples,) on the CPU."""
        return self.vocoder(self.mel(frames, speaker)).wave[0].cpu()

    def samples(self, n_frames: int) -> int:
        """How many samples `wave` gives for so many code frames."""
        return samples_for(self.mel_frames(n_frames), self.audio)

    def decided(self, n_frames: int) -> int:
        """How many samples do not depend on what comes after so many code frames."""
        if self.reach.after is None:
            return 0
        seen = math.floor(n_frames * self.ratio * self.audio.hop_length) - self.reach.after
        return max(0, min(seen, self.samples(n_frames)))

    def frames_for(self, n_samples: int) -> int | None:
        """How many code frames it takes to decide so many samples; None: all that are still to come."""
        if self.reach.after is None:
            return None
        return math.ceil((n_samples + self.reach.after) / (self.ratio * self.audio.hop_length))

    @torch.inference_mode()
    def part(self, frames: Tensor, speaker: int, first: int, ended: bool) -> Tensor:
        """The samples from `first` on that are decided, on the CPU; all of them if it has `ended`."""
        hop, n_frames = self.audio.hop_length, frames.shape[1]
        last = self.samples(n_frames) if ended else self.decided(n_frames)
        if last <= first:
            return torch.zeros(0)
        first_frame = 0
        if self.reach.before is not None:
            first_frame = max(0, math.floor((first - self.reach.before) / (self.ratio * hop)))
        first_mel = math.floor(first_frame * self.ratio)
        last_mel = self.mel_frames(n_frames) if ended else math.ceil(n_frames * self.ratio)
        features = self.decoder.features(frames[None, :, first_frame:])
        mel = self._mel(features, speaker, first_mel - first_frame * self.ratio, last_mel - first_mel)
        return self.vocoder(mel).wave[0, first - first_mel * hop : last - first_mel * hop].cpu()

    @cached_property
    def reach(self) -> Reach:
        """Measured: where the features are not a number, every sample that depends on them, be it by a weight of zero,
        is none either. Attention over time or a norm over it would spread them everywhere."""
        samples_per_frame = self.ratio * self.audio.hop_length
        # where a code frame is no whole number of mel frames, these lie elsewhere in every code frame
        slack = 0 if self.whole_ratio else self.audio.hop_length
        before = after = None
        for n_frames in PROBES:
            middle = n_frames // 2
            unknown = self._unknown_samples(n_frames, middle)
            if before is None and not unknown[0, -1]:
                before = int(unknown[0].nonzero().max()) + 1 - math.floor(middle * samples_per_frame) + slack
            if after is None and not unknown[1, 0]:
                after = math.ceil(middle * samples_per_frame) - int(unknown[1].nonzero().min()) + slack
            if before is not None and after is not None:
                break
        log.info("a sample sees %s", " and ".join(
            f"{'everything' if samples is None else f'{samples / self.audio.sample_rate:.2f} s'} {where} it"
            for samples, where in ((before, "before"), (after, "after"))))
        return Reach(before, after)

    @torch.inference_mode()
    def _unknown_samples(self, n_frames: int, middle: int) -> Tensor:
        """(2, samples): which ones depend on the frames before the middle one, and on that one and those after it."""
        device = next(self.vocoder.parameters()).device
        features = torch.zeros(2, n_frames, self.decoder.feature_size, device=device)
        features[0, :middle] = features[1, middle:] = torch.nan
        return self.vocoder(self._mel(features, 0, 0.0, self.mel_frames(n_frames))).wave.isnan().cpu()

    def mel_frames(self, n_frames: int) -> int:
        """How many mel frames so many code frames are."""
        return max(2, round(n_frames * self.ratio))  # 1 would give no samples where frames are centred on their edges

    def _mel(self, features: Tensor, speaker: int, start: float, n_mel_frames: int) -> Tensor:
        B, T, _ = features.shape
        device = features.device
        return self.decoder.mel_from_features(
            features, torch.full((B,), T, device=device), torch.full((B,), speaker, device=device),
            torch.full((B,), start, dtype=torch.float64, device=device), n_mel_frames,
        )


class WaveStream:
    """The wave of one clip in chunks, each as soon as the frames that decide it are there.

    The first chunk is as early as the network's reach allows, later ones come when they have grown, so that they are
    not made of the same frames again and again. A network whose samples see everything gives one chunk, at the end.
    """

    def __init__(self, frames_to_wave: FramesToWave, speaker: int):
        self.frames_to_wave, self.speaker = frames_to_wave, speaker
        self.made, self.wanted = 0, 1  # samples

    def more(self, frames: Tensor, ended: bool = False) -> Tensor:
        """The next samples, perhaps none, given all `frames` (channels, T) up to now; the rest if it has `ended`."""
        to_wave, sample_rate = self.frames_to_wave, self.frames_to_wave.audio.sample_rate
        if not ended and to_wave.decided(frames.shape[1]) < self.made + self.wanted:
            return torch.zeros(0)
        samples = to_wave.part(frames, self.speaker, self.made, ended)
        self.made += len(samples)
        self.wanted = min(max(2 * len(samples), self.wanted), round(CHUNK_SECONDS * sample_rate))
        return samples
