"""Speech in chunks is the speech made at once, whatever the networks look like."""

import pytest
import torch
from torch import nn

from config import (
    AudioConfig,
    FSQConfig,
    HarmonicVocosConfig,
    HiddenDecoderConfig,
    MelCodecConfig,
    MultibandISTFTConfig,
    TokenDecoderConfig,
    VocosConfig,
)
from models.codec import MelCodec
from models.hidden_decoder import HiddenDecoder
from models.token_decoder import TokenDecoder
from models.vocoder import VocoderOutput, build_vocoder
from synthesis.frames_to_wave import FramesToWave, NoDecoder, Reach, WaveStream

VOCODERS = {
    "multiband": MultibandISTFTConfig(hidden_size=8, resblock_kernel_sizes=[3, 7], resblock_dilations=[1, 5]),
    "vocos": VocosConfig(hidden_size=16, intermediate_size=16, n_layers=3),
    "harmonic": HarmonicVocosConfig(hidden_size=16, intermediate_size=16, n_layers=2),
    "vocos, 4 ahead": VocosConfig(hidden_size=16, intermediate_size=16, n_layers=3, lookahead=4),
}
CODEC_RATE = 22050 / 256 / 4
DECODERS = {"codec": CODEC_RATE, "codec, 2 ahead": CODEC_RATE, "tokens": 75.0, "many tokens": 200.0, "hidden": 21.5,
            "mel": 22050 / 256}
FRAMES = 150


def make_decoder(kind: str, audio: AudioConfig) -> nn.Module:
    rate = DECODERS[kind]
    if kind == "mel":
        return NoDecoder(audio.n_mels)
    if kind.startswith("codec"):
        config = MelCodecConfig(bottleneck=FSQConfig(levels=[4, 4], n_codebooks=2), hidden_size=16, decoder_layers=3,
                                lookahead=2 if "ahead" in kind else None)
        return MelCodec(config, audio, 2).decoder
    if kind == "hidden":
        return HiddenDecoder(HiddenDecoderConfig(hidden_size=8, n_layers=4), audio, 6, rate, 2)
    return TokenDecoder(TokenDecoderConfig(hidden_size=8, n_layers=4, kernel_size=5), audio, 2, 16, rate, 2)


def make(kind: str, vocoder: nn.Module | str, padding: str = "same") -> FramesToWave:
    """Networks in which every weight counts, so that what is far is heard, too."""
    torch.manual_seed(0)
    audio = AudioConfig(n_mels=8, padding=padding)
    networks = [make_decoder(kind, audio), build_vocoder(VOCODERS[vocoder], audio) if vocoder in VOCODERS else vocoder]
    for network in networks:
        for parameter in network.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5
    return FramesToWave(*(network.eval() for network in networks), audio, DECODERS[kind])


def said(kind: str, n_frames: int = FRAMES) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n_frames)
    if kind in ("hidden", "mel"):
        return torch.randn(6 if kind == "hidden" else 8, n_frames, generator=generator)
    return torch.randint(16, (2, n_frames), generator=generator)


def streamed(to_wave: FramesToWave, frames: torch.Tensor) -> list[torch.Tensor]:
    """One chunk for every number of frames."""
    waves = WaveStream(to_wave, 1)
    n_frames = frames.shape[1]
    return [waves.more(frames[:, :count], ended=count == n_frames) for count in range(1, n_frames + 1)]


def assert_equal(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < tolerance * max(1, expected.abs().max())


@pytest.mark.parametrize("padding", ["same", "center"])
@pytest.mark.parametrize("vocoder", VOCODERS)
@pytest.mark.parametrize("kind", DECODERS)
def test_chunks_joined_are_the_wave(kind, vocoder, padding):
    to_wave, frames = make(kind, vocoder, padding), said(kind)
    whole = to_wave.wave(frames, 1)
    chunks = streamed(to_wave, frames)
    assert_equal(torch.cat(chunks), whole)
    lengths = [len(chunk) for chunk in chunks if len(chunk)]
    assert len(lengths) > 3
    assert max(lengths[:-1]) <= 2 * 22050
    # the first one comes as soon as anything is decided
    first = next(count for count, chunk in enumerate(chunks, 1) if len(chunk))
    assert to_wave.decided(first - 1) == 0 < to_wave.decided(first) == lengths[0]


@pytest.mark.parametrize("vocoder", VOCODERS)
@pytest.mark.parametrize("kind", DECODERS)
def test_what_comes_later_does_not_change_what_is_decided(kind, vocoder):
    to_wave = make(kind, vocoder)
    for known in (90, 91, 92, 93):
        frames = said(kind, 180)
        other = frames.clone()
        other[:, known:] = said(kind, 181)[:, known:180]
        changed = (to_wave.wave(frames, 1) - to_wave.wave(other, 1)).nonzero()
        assert 0 < to_wave.decided(known) <= int(changed.min())


@pytest.mark.parametrize("kind", DECODERS)
def test_how_many_frames_decide_so_many_samples(kind):
    to_wave = make(kind, "vocos")
    for samples in (1, 1000, 5512, 20000):
        frames = to_wave.frames_for(samples)
        assert to_wave.decided(frames - 1) < samples <= to_wave.decided(frames)


def test_the_reach_is_the_sum_of_all_kernels():
    # 3 blocks of 7 code frames; 4 kernels of 7 mel frames; a window of 1024 samples about a hop of 256
    samples = 3 * 3 * 1024 + 4 * 3 * 256 + (1024 - 256) // 2
    assert make("codec", "vocos").reach == Reach(samples, samples)
    window = (1024 - 256) // 2
    before, after = (3 * 6 - 2) * 1024 + (4 * 6 - 4) * 256 + window, 2 * 1024 + 4 * 256 + window
    assert make("codec, 2 ahead", "vocos, 4 ahead").reach == Reach(before, after)


@pytest.mark.parametrize("n_frames", [1, 2, 5, 40])
def test_short_speech(n_frames):
    to_wave = make("codec", "vocos")
    assert_equal(torch.cat(streamed(to_wave, said("codec", n_frames))), to_wave.wave(said("codec", n_frames), 1))


class Everywhere(nn.Module):
    """A vocoder that hears the past (`causal`) or everything at once."""

    def __init__(self, causal: bool):
        super().__init__()
        self.causal = causal
        self.gain = nn.Parameter(torch.ones(1, 1))

    def forward(self, mel: torch.Tensor) -> VocoderOutput:
        level = mel.mean(1)
        level = level.cumsum(1) / 100 if self.causal else level.mean(1, keepdim=True).expand_as(level)
        return VocoderOutput((self.gain * level).repeat_interleave(256, dim=1), None)


def test_networks_without_bounds():
    to_wave, frames = make("codec", Everywhere(causal=True)), said("codec")
    assert to_wave.reach.before is None
    assert to_wave.reach.after < 22050
    chunks = streamed(to_wave, frames)
    assert_equal(torch.cat(chunks), to_wave.wave(frames, 1))
    assert sum(len(chunk) > 0 for chunk in chunks) > 3

    to_wave = make("codec", Everywhere(causal=False))
    assert (to_wave.reach.before, to_wave.reach.after, to_wave.frames_for(1)) == (None, None, None)
    chunks = streamed(to_wave, frames)
    assert [len(chunk) for chunk in chunks[:-1]] == [0] * (FRAMES - 1)
    assert_equal(chunks[-1], to_wave.wave(frames, 1))
