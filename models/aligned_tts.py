"""Phonemes with explicit durations -> mel: no word can be skipped or said twice.

The text of L symbols stands between a begin and an end symbol, which carry the silence before and after it, so that
there are S = L + 2 durations.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import AlignedConfig, AudioConfig
from models.layers.length_regulator import regulate, whole_frames
from models.layers.mel_decoders import DECODERS, DecoderOutput
from models.layers.phoneme_encoder import PhonemeEncoder, SymbolPredictor

TEMPERATURE = 0.667  # as in Matcha-TTS
PROSODY_LIMITS = {"rate": (0.25, 4.0), "pitch": (-24.0, 24.0), "energy": (-24.0, 24.0)}


@dataclass(frozen=True)
class Prosody:
    """What a caller may change, within `PROSODY_LIMITS`."""

    rate: float = 1.0
    """Times as fast."""
    pitch: float = 0.0
    """Semitones higher."""
    energy: float = 0.0
    """Decibels louder, as the voice would say it."""

    def __post_init__(self):
        for name, (least, most) in PROSODY_LIMITS.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be {least:g} to {most:g}, not {getattr(self, name):g}")


@dataclass
class AlignedOutput:
    """What training compares with the recording; (B, S) unless said otherwise."""

    decoder: DecoderOutput
    mel_target: Tensor
    """(B, P, frames_per_position * n_mels), standardised"""
    mask: Tensor
    """(B, P) True for a text's positions"""
    frame_mask: Tensor
    """(B, P, frames_per_position * n_mels) True for a text's frames"""
    log_durations: Tensor
    """log(1 + frames)"""
    pitch: Tensor
    energy: Tensor
    symbol_mask: Tensor


@dataclass
class AlignedSpeech:
    """What was made of one text."""

    mel: Tensor
    """(n_mels, frames)"""
    durations: Tensor
    """(S,) frames"""


@dataclass
class Plan:
    """What the mel decoder is to say of texts."""

    durations: Tensor
    """(B, S) frames"""
    symbol_mask: Tensor
    """(B, S) True for a text's symbols"""
    features: Tensor
    """(B, P, C)"""
    mask: Tensor
    """(B, P) True for a text's positions"""
    noise: Tensor
    """(B, P, frames_per_position * n_mels), of each text the same in every batch"""


class AlignedTTS(nn.Module):
    """Encoder, predictors of duration, pitch and energy, length regulator and one of three mel decoders.

    Pitch is in octaves above the speaker's mean, 0 where unvoiced; energy the standardised logarithm of a frame's
    summed mel; both are means over a symbol (FastPitch, arXiv 2006.06873).
    """

    def __init__(self, config: AlignedConfig, audio: AudioConfig, *, n_symbols: int, n_speakers: int, n_languages: int):
        super().__init__()
        self.config, self.n_mels = config, audio.n_mels
        width, out_size = config.hidden_size, config.frames_per_position * audio.n_mels
        self.encoder = PhonemeEncoder(
            n_symbols=n_symbols, n_speakers=n_speakers, n_languages=n_languages, hidden_size=width,
            n_layers=config.n_layers, n_heads=config.n_heads, feed_forward_size=config.feed_forward_size,
            dropout=config.dropout, gradient_checkpointing=config.gradient_checkpointing,
        )
        self.predictors = nn.ModuleDict({
            name: SymbolPredictor(width, config.predictor_size, config.dropout)
            for name in ("duration", "pitch", "energy")
        })
        self.embed_pitch, self.embed_energy = (nn.Conv1d(1, width, 3, padding=1) for _ in range(2))
        self.embed_place = nn.Linear(1, width)
        self.join = nn.Linear(config.frames_per_position * width, width)
        sizes = config.decoder.model_dump(exclude={"kind"})
        if config.decoder.kind == "autoregressive":
            sizes["gradient_checkpointing"] = config.gradient_checkpointing
        self.decoder = DECODERS[config.decoder.kind](width, out_size, **sizes)
        self.register_buffer("mel_mean", torch.tensor(-5.0))
        self.register_buffer("mel_std", torch.tensor(2.0))
        self.register_buffer("energy_mean", torch.tensor(0.0))
        self.register_buffer("energy_std", torch.tensor(2.0))

    def set_statistics(self, mel_mean: float, mel_std: float, energy_mean: float, energy_std: float) -> None:
        """What mel and energy are standardised by; kept with the weights."""
        for name, value in (("mel_mean", mel_mean), ("mel_std", mel_std), ("energy_mean", energy_mean),
                            ("energy_std", energy_std)):
            getattr(self, name).fill_(value)

    def forward(
        self, text: Tensor, text_lengths: Tensor, durations: Tensor, mel: Tensor, pitch: Tensor, energy: Tensor,
        speaker: Tensor, language: Tensor,
    ) -> AlignedOutput:
        """Teacher forcing: text, durations, pitch and energy (B, S), mel (B, n_mels, T), speaker and language (B,)."""
        symbol_mask = _mask(text_lengths, text.shape[1])
        x = self.encoder(text, symbol_mask, speaker, language)
        predicted = {name: predictor(x, symbol_mask) for name, predictor in self.predictors.items()}
        energy = self.standard_energy(energy) * symbol_mask
        lengths = durations.sum(1)
        features, mask = self._features(self._conditioned(x, pitch, energy, symbol_mask), durations,
                                        self._n_positions(lengths))
        target = self._positions((mel - self.mel_mean) / self.mel_std, features.shape[1])
        frame_mask = _mask(lengths, features.shape[1] * self.config.frames_per_position)
        frame_mask = self._positions(frame_mask.unsqueeze(1).expand(-1, self.n_mels, -1), features.shape[1])
        target = target * frame_mask
        return AlignedOutput(
            self.decoder(features, mask, target), target, mask, frame_mask, predicted["duration"], predicted["pitch"],
            predicted["energy"], symbol_mask,
        )

    def standard_energy(self, energy: Tensor) -> Tensor:
        """Log energies as the predictor has them."""
        return (energy - self.energy_mean) / self.energy_std

    @torch.inference_mode()
    def generate(
        self, text: list[Tensor], speaker: Tensor, language: Tensor, prosody: Prosody = Prosody(),
        temperature: float = TEMPERATURE, generators: list[torch.Generator | None] | None = None,
    ) -> list[AlignedSpeech]:
        """Mel for every text, the same as for each alone; the arguments are those of `plan`."""
        plan = self.plan(text, speaker, language, prosody, temperature, generators)
        return [AlignedSpeech(mel, plan.durations[i, : len(text[i])]) for i, mel in enumerate(self._mels(plan))]

    @torch.inference_mode()
    def plan(
        self, text: list[Tensor], speaker: Tensor, language: Tensor, prosody: Prosody = Prosody(),
        temperature: float = TEMPERATURE, generators: list[torch.Generator | None] | None = None,
    ) -> Plan:
        """Durations, pitch and energy of every text, a list of id tensors (S,) with begin and end symbol.

        `temperature`: standard deviation of the noise that a flow starts from; `generators`: one a text, for it.
        """
        lengths = torch.tensor([len(ids) for ids in text], device=speaker.device)
        padded = nn.utils.rnn.pad_sequence(text, batch_first=True)
        symbol_mask = _mask(lengths, padded.shape[1])
        x, durations = self.predict(padded, symbol_mask, speaker, language, prosody.rate, prosody.pitch, prosody.energy)
        return self._plan(x, durations, symbol_mask, temperature, generators)

    @torch.inference_mode()
    def stream(self, plan: Plan, ends: Iterable[int]) -> Iterator[tuple[Tensor, bool]]:
        """The mel that `generate` makes of a plan of one text, in parts (n_mels, frames), and whether each is the last:
        up to about each of the increasing numbers of frames `ends`, without end if need be, and then the rest."""
        together, P = self.config.frames_per_position, plan.features.shape[1]
        # before this, no stop ends a text
        certain = int(plan.durations.sum() - plan.durations[0, -1]) // together
        positions = itertools.takewhile(lambda position: position < certain, (-(-end // together) for end in ends))
        made, stops = 0, []
        for output in self.decoder.pieces(plan.features, plan.noise, [*positions, P]):
            mel, end = self._frames(output.mel)[0], made + output.mel.shape[1]
            stops.append(output.stop_logits)
            if end == P:
                lengths = self._lengths(plan, None if stops[0] is None else torch.cat(stops, dim=1))
                mel = mel[:, : int(lengths) - made * together]
            yield mel, end == P
            made = end

    def predict(
        self, text: Tensor, symbol_mask: Tensor, speaker: Tensor, language: Tensor, rate: float | Tensor,
        pitch: float | Tensor, energy: float | Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Text and mask (B, S), speaker and language (B,), and what `Prosody` holds -> features (B, S, C), which have
        heard pitch and energy, and durations (B, S)."""
        x = self.encoder(text, symbol_mask, speaker, language)
        predicted = {name: predictor(x, symbol_mask) for name, predictor in self.predictors.items()}
        durations = whole_frames(predicted["duration"].expm1() * symbol_mask, rate)
        # a vocoder needs two frames
        last = torch.arange(text.shape[1], device=text.device) == symbol_mask.sum(1, keepdim=True) - 1
        durations = torch.maximum(durations, 2 * last)
        pitches = (predicted["pitch"] + pitch / 12) * symbol_mask
        # 20 dB are a factor of 10 in the mel's magnitudes
        energies = (predicted["energy"] + energy / 20 * math.log(10) / self.energy_std) * symbol_mask
        return self._conditioned(x, pitches, energies, symbol_mask), durations

    @torch.inference_mode()
    def spoken_mel(
        self, text: Tensor, text_lengths: Tensor, durations: Tensor, pitch: Tensor, energy: Tensor, speaker: Tensor,
        language: Tensor, temperature: float = TEMPERATURE, generators: list[torch.Generator | None] | None = None,
    ) -> list[Tensor]:
        """The mels (n_mels, frames) that it makes with a recording's durations, pitch and energy, each (B, S)."""
        symbol_mask = _mask(text_lengths, text.shape[1])
        x = self.encoder(text, symbol_mask, speaker, language)
        energy = self.standard_energy(energy) * symbol_mask
        x = self._conditioned(x, pitch, energy, symbol_mask)
        return self._mels(self._plan(x, durations, symbol_mask, temperature, generators))

    def decode(self, x: Tensor, durations: Tensor, noise: Tensor) -> Tensor:
        """Features of `predict` (B, S, C), durations (B, S) and the noise (B, P, out_size) that a flow starts from, in
        as many positions as there are to be -> mel (B, n_mels, P * frames_per_position), whatever a decoder says of
        where it stops."""
        features, mask = self._features(x, durations, noise.shape[1])
        return self._frames(self.decoder.generate(features, mask, noise).mel)

    def _plan(self, x, durations, symbol_mask, temperature, generators) -> Plan:
        features, mask = self._features(x, durations, self._n_positions(durations.sum(1)))
        out_size = self.config.frames_per_position * self.n_mels
        noise = torch.zeros(*mask.shape, out_size, device=x.device)
        for i, count in enumerate(mask.sum(1).tolist()):
            generator = generators[i] if generators else None
            noise[i, :count] = temperature * torch.randn(count, out_size, generator=generator, device=x.device)
        return Plan(durations, symbol_mask, features, mask, noise)

    def _mels(self, plan: Plan) -> list[Tensor]:
        output = self.decoder.generate(plan.features, plan.mask, plan.noise)
        lengths = self._lengths(plan, output.stop_logits).tolist()
        return [mel[:, :count] for mel, count in zip(self._frames(output.mel), lengths, strict=True)]

    def _frames(self, mel: Tensor) -> Tensor:
        """A decoder's mel (B, P, frames_per_position * n_mels) -> log-mel (B, n_mels, T)."""
        mel = mel.reshape(len(mel), -1, self.n_mels).transpose(1, 2)
        return mel * self.mel_std + self.mel_mean

    def _lengths(self, plan: Plan, stops: Tensor | None) -> Tensor:
        """Frames of each text (B,), up to where the decoder stopped if it does."""
        lengths = plan.durations.sum(1)
        return lengths if stops is None else self._stopped(stops, lengths, plan.durations, plan.symbol_mask)

    def _stopped(self, stops: Tensor, lengths: Tensor, durations: Tensor, symbol_mask: Tensor) -> Tensor:
        """Lengths (B,) up to the decoder's stop, which may cut nothing but the last symbol, the silence."""
        positions = torch.arange(1, stops.shape[1] + 1, device=stops.device)
        first = torch.where(stops > 0, positions, stops.shape[1] + 1).amin(1) * self.config.frames_per_position
        last_symbol = durations.gather(1, symbol_mask.sum(1, keepdim=True) - 1).squeeze(1)
        return torch.minimum(lengths, torch.maximum(first, lengths - last_symbol)).clamp(min=2)

    def _conditioned(self, x: Tensor, pitch: Tensor, energy: Tensor, symbol_mask: Tensor) -> Tensor:
        """What the encoder gives (B, S, C), having heard pitch and energy (B, S)."""
        x = x + self.embed_pitch(pitch.unsqueeze(1)).transpose(1, 2)
        return (x + self.embed_energy(energy.unsqueeze(1)).transpose(1, 2)) * symbol_mask.unsqueeze(2)

    def _n_positions(self, lengths: Tensor) -> int:
        """How many positions the longest of so many frames (B,) takes."""
        return -(-int(lengths.max()) // self.config.frames_per_position)

    def _features(self, x: Tensor, durations: Tensor, n_positions: int) -> tuple[Tensor, Tensor]:
        """Features (B, P, C) of every position, and which positions (B, P) belong to the text."""
        together, lengths = self.config.frames_per_position, durations.sum(1)
        n_frames = n_positions * together
        repeated, place = regulate(x, durations, n_frames)
        inside = _mask(lengths, n_frames).unsqueeze(2)
        frames = (repeated + self.embed_place(place.unsqueeze(2))) * inside  # (B, T, C)
        features = self.join(frames.reshape(len(x), n_positions, -1))
        return features, _mask(-(-lengths // together), n_positions)

    def _positions(self, frames: Tensor, n_positions: int) -> Tensor:
        """(B, n_mels, T) -> (B, n_positions, frames_per_position * n_mels), zeros behind the end."""
        n_frames = n_positions * self.config.frames_per_position
        frames = F.pad(frames[:, :, :n_frames], (0, max(0, n_frames - frames.shape[2])))
        return frames.transpose(1, 2).reshape(len(frames), n_positions, -1)


def _mask(lengths: Tensor, count: int) -> Tensor:
    """(B,) -> (B, count), True within the lengths."""
    return torch.arange(count, device=lengths.device) < lengths.unsqueeze(1)
