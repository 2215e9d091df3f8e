"""Log-mel -> wave: the multiband iSTFT generator, Vocos and a harmonic-plus-noise Vocos, behind one interface."""

import pickle
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

import mel_processing
from config import AudioConfig, HarmonicVocosConfig, MultibandISTFTConfig, VocosConfig
from models.layers.convnext import ConvNeXtBlock, FrameConv, frames_ahead, init_weights
from models.layers.istft import ISTFT, gain, polar
from models.layers.pqmf import PQMF
from models.layers.resblock import LEAKY_SLOPE, MultiReceptiveField
from models.layers.source import Excitation, F0Bins

INITIAL_LOG_GAIN = -4.0
"""Of pulses and noise of unit power, on the way to a voice."""


class VocoderOutput(NamedTuple):
    wave: Tensor
    """(B, samples), float32; samples = mel_processing.samples_for(frames, audio)."""
    subbands: Tensor | None = None
    """(B, n_bands, samples / n_bands) that the wave was made from, where the network works in sub-bands."""
    f0_logits: Tensor | None = None
    """(B, T, classes of `F0Bins`), where the network estimates f0."""


class Vocoder(nn.Module):
    """What every vocoder does. Nothing looks further ahead than a receptive field."""

    needs_f0 = False
    """Whether training gives it the f0 of the recordings."""

    def forward(self, mel: Tensor, f0: Tensor | None = None) -> VocoderOutput:
        """Log-mel (B, n_mels, T) -> wave (B, samples); spectra, phases and filters stay in single precision.

        `f0` in Hz (B, T), 0 where unvoiced, replaces the estimate of a vocoder that makes one; others take none.
        """
        raise NotImplementedError

    def analysis(self, wave: Tensor) -> Tensor | None:
        """Sub-bands (B, n_bands, samples / n_bands) of recordings, to compare the output's with, where it has any."""
        return None

    def remove_weight_norm(self) -> None:
        """Folds weight normalisation into plain weights, for synthesis and export; not to be trained further."""
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")


def build_vocoder(config: MultibandISTFTConfig | VocosConfig | HarmonicVocosConfig, audio: AudioConfig) -> Vocoder:
    """The vocoder of the config, with random weights."""
    kinds = {"multiband_istft": MultibandISTFTGenerator, "vocos": Vocos, "harmonic_vocos": HarmonicVocos}
    return kinds[config.kind](config, audio)


class MultibandISTFTGenerator(Vocoder):
    """HiFi-GAN's stages up to the frame rate of a small iSTFT in each sub-band, then PQMF or learned synthesis
    (iSTFTNet, arXiv 2203.02395; multi-band and multi-stream iSTFT-VITS, arXiv 2210.15975)."""

    def __init__(self, config: MultibandISTFTConfig, audio: AudioConfig):
        super().__init__()
        self.n_bands = config.n_bands
        # with `center`, the first and the last half hop are not part of the clip
        self.trim, rest = divmod(audio.hop_length, 2 * config.n_bands) if audio.padding == "center" else (0, 0)
        if rest:
            raise ValueError(
                f"audio.padding center needs audio.hop_length {audio.hop_length} to be a multiple of "
                f"2 * vocoder.n_bands = {2 * config.n_bands}"
            )
        channels = config.hidden_size
        self.conv_pre = weight_norm(nn.Conv1d(audio.n_mels, channels, 7, padding=3))
        self.upsamplers = nn.ModuleList()
        self.stages = nn.ModuleList()
        for rate in config.upsample_rates:
            # kernel - rate must be even for an output of exactly rate * T
            kernel_size = 4 * rate + rate % 2
            self.upsamplers.append(weight_norm(nn.ConvTranspose1d(
                channels, channels // 2, kernel_size, stride=rate, padding=(kernel_size - rate) // 2
            )))
            channels //= 2
            self.stages.append(
                MultiReceptiveField(channels, config.resblock_kernel_sizes, config.resblock_dilations)
            )
        self.conv_post = weight_norm(nn.Conv1d(channels, config.n_bands * (config.n_fft + 2), 7, padding=3))
        self.istft = ISTFT(config.n_fft, config.hop_length, config.n_fft, padding="same")
        self.pqmf = PQMF(config.n_bands, learned=config.synthesis == "learned")

    def forward(self, mel: Tensor, f0: None = None) -> VocoderOutput:
        B = mel.shape[0]
        x = self.conv_pre(mel)  # (B, C, T)
        for upsample, stage in zip(self.upsamplers, self.stages, strict=True):
            x = stage(upsample(F.leaky_relu(x, LEAKY_SLOPE)))  # (B, C / 2, rate * T), ...
        # from here in single precision: half has too few digits for a phase of many turns
        with torch.autocast(mel.device.type, enabled=False):
            x = self.conv_post(F.leaky_relu(x.float(), LEAKY_SLOPE))
            log_magnitude, phase = x.view(B * self.n_bands, -1, x.shape[-1]).chunk(2, dim=1)
            subbands = self.istft(polar(log_magnitude, phase)).view(B, self.n_bands, -1)
        subbands = subbands[..., self.trim : subbands.shape[-1] - self.trim]
        return VocoderOutput(self.pqmf.synthesis(subbands), subbands)

    def analysis(self, wave: Tensor) -> Tensor:
        """PQMF sub-bands (B, n_bands, samples / n_bands) of recordings, to compare `subbands` with."""
        return self.pqmf.analysis(wave)


class VocosBackbone(nn.Module):
    """ConvNeXt blocks at the mel frame rate."""

    def __init__(self, config: VocosConfig | HarmonicVocosConfig, n_mels: int):
        super().__init__()
        first, *others = frames_ahead(config.lookahead, 1 + config.n_layers)
        self.embed = FrameConv(n_mels, config.hidden_size, 7, ahead=first)
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.convnext = nn.ModuleList(
            ConvNeXtBlock(config.hidden_size, config.intermediate_size, layer_scale=1 / config.n_layers, ahead=ahead)
            for ahead in others
        )
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        init_weights(self.embed)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, n_mels, T) -> (B, T, C)."""
        x = self.norm(self.embed(mel).transpose(1, 2)).transpose(1, 2)  # (B, C, T)
        for block in self.convnext:
            x = block(x)
        return self.final_layer_norm(x.transpose(1, 2))


class ISTFTHead(nn.Module):
    """One linear layer to log-magnitude and phase, then the iSTFT."""

    def __init__(self, hidden_size: int, audio: AudioConfig):
        super().__init__()
        self.out = nn.Linear(hidden_size, audio.n_fft + 2)
        self.istft = ISTFT(audio.n_fft, audio.hop_length, audio.win_length, audio.padding)
        init_weights(self.out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, samples)."""
        # in single precision: half has too few digits for a phase of many turns
        with torch.autocast(x.device.type, enabled=False):
            log_magnitude, phase = self.out(x.float()).transpose(1, 2).chunk(2, dim=1)  # (B, n_fft / 2 + 1, T)
            return self.istft(polar(log_magnitude, phase))


class Vocos(Vocoder):
    """ConvNeXt at the mel frame rate and one iSTFT (arXiv 2306.00814); parameters are named as published."""

    def __init__(self, config: VocosConfig, audio: AudioConfig):
        super().__init__()
        self.audio = audio
        self.backbone = VocosBackbone(config, audio.n_mels)
        self.head = ISTFTHead(config.hidden_size, audio)

    def forward(self, mel: Tensor, f0: None = None) -> VocoderOutput:
        return VocoderOutput(self.head(self.backbone(mel)))


class HarmonicVocos(Vocoder):
    """Vocos' backbone filters pulses at the f0 that it estimates, and noise, each by its own filter a frame.

    A frame's phase then follows from the one before because that of the pulses does, which Vocos has to learn. Filters
    as of a neural homomorphic vocoder (Liu et al. 2020) and DDSP (arXiv 2001.04643), the source that of HiFTNet (arXiv
    2309.09493); pulses and noise are filtered as spectra of overlapping frames.
    """

    needs_f0 = True

    def __init__(self, config: HarmonicVocosConfig, audio: AudioConfig):
        super().__init__()
        bins = audio.n_fft // 2 + 1
        self.backbone = VocosBackbone(config, audio.n_mels)
        self.f0_bins = F0Bins()
        self.f0_head = nn.Linear(config.hidden_size, F0Bins.n_classes)
        self.out = nn.Linear(config.hidden_size, 3 * bins)
        self.excitation = Excitation(audio.n_fft, audio.hop_length, audio.win_length, audio.sample_rate)
        self.istft = ISTFT(audio.n_fft, audio.hop_length, audio.win_length, audio.padding)
        for layer in (self.f0_head, self.out):
            init_weights(layer)
        with torch.no_grad():
            self.out.bias[: 2 * bins] = INITIAL_LOG_GAIN

    def forward(self, mel: Tensor, f0: Tensor | None = None) -> VocoderOutput:
        x = self.backbone(mel)  # (B, T, C)
        with torch.autocast(mel.device.type, enabled=False):
            x = x.float()
            f0_logits = self.f0_head(x)
            pulses, noise = self.excitation(self.f0_bins.estimate(f0_logits) if f0 is None else f0)
            pulse_gain, noise_gain, phase = self.out(x).transpose(1, 2).chunk(3, dim=1)  # (B, n_fft / 2 + 1, T)
            spectrum = pulses * polar(pulse_gain, phase) + noise * gain(noise_gain)
            return VocoderOutput(self.istft(spectrum), f0_logits=f0_logits)


def load_published_vocos(vocoder: Vocos, path: str | Path) -> None:
    """Loads a file of weights as published for Vocos (pytorch_model.bin of charactr/vocos-mel-24khz).

    Such files also hold the window and the mel filters (feature_extractor.mel_spec.*) that they were trained with;
    ValueError if these are not what the AudioConfig says, if a name is missing, unexpected or of another shape, or if
    the file cannot be read as weights.
    """
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: not readable as weights ({str(error).splitlines()[0]})") from error
    weights = {name: t for name, t in state_dict.items() if not name.startswith("feature_extractor.")}
    own = vocoder.state_dict()
    problems = [f"  missing: {name}" for name in own.keys() - weights.keys()]
    problems += [f"  unexpected: {name}" for name in weights.keys() - own.keys()]
    problems += [
        f"  {name}: {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the config"
        for name in own.keys() & weights.keys() if weights[name].shape != own[name].shape
    ]
    window = torch.hann_window(vocoder.audio.win_length)
    constants = {
        "feature_extractor.mel_spec.spectrogram.window": window,
        "feature_extractor.mel_spec.mel_scale.fb": mel_processing.mel_filters(vocoder.audio, torch.device("cpu")).T,
        "head.istft.window": window,
    }
    for name, expected in constants.items():
        found = state_dict.get(name, expected).float()
        if found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-3):
            problems.append(f"  {name}: not what the audio section gives (n_mels, mel_scale, mel_norm, ...)")
    if problems:
        raise ValueError("\n".join([f"{path}: these Vocos weights do not fit the config", *sorted(problems)]))
    vocoder.load_state_dict(weights)
