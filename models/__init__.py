"""Rebuilds networks: fresh from a config, or trained from a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from checkpoints import load_weights, network_weights
from config import Config, GaussianConfig, MelCodecConfig, parse_config
from models.aligned_tts import AlignedTTS
from models.aligner import Aligner
from models.codec import MelCodec
from models.hidden_decoder import HiddenDecoder
from models.layers.crop import Crop, crop_mel
from models.token_decoder import TokenDecoder
from models.token_lm import TokenLM
from models.vocoder import Vocoder, VocoderOutput, build_vocoder
from voice_folder import require_stage

if TYPE_CHECKING:
    from models.encodec import Encodec

__all__ = [
    "Codec", "CodesToWave", "HiddenToWave", "MelToWave", "build_aligned_tts", "build_token_lm", "build_wave_generator",
    "codec_data", "generate_wave", "load_codec", "load_network", "load_vocoder", "require_codes",
]


class Codec(Protocol):
    """What every codec is to the stages after it: EnCodec and our own look the same.

    A padded clip of a batch gives what it gives alone. Nothing may assume a relation between code and mel frames
    other than time: `frame_rate` beside `AudioConfig.frame_rate`.
    """

    sample_rate: int
    """Of the waves that `encode` takes."""
    frame_rate: float
    """Code frames a second, in all codebooks at once."""
    gives_codes: bool
    """False for Gaussian latents: no n_codebooks, codebook_size, encode and decode_mel, but encode_latents."""
    n_codebooks: int
    codebook_size: int
    """Codes of each codebook; a code is 0 to codebook_size - 1."""
    fingerprint: str
    """Short hash of everything that decides the codes; caches and checkpoints of later stages are bound to it."""

    def frames_for(self, samples: int) -> int:
        """How many code frames `encode` gives for so many samples."""

    def encode(self, wave: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """wave (B, samples) in [-1, 1], of `lengths` (B,) samples -> codes (B, n_codebooks, T), code lengths (B,)."""

    def decode_mel(self, codes: Tensor, lengths: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor]:
        """codes (B, n_codebooks, T), lengths (B,), speaker ids (B,) -> log-mel (B, n_mels, frames) of the config's
        `AudioConfig`, and its lengths (B,); frames behind a clip's own have no meaning."""


class MelToWave(nn.Module):
    """The vocoder stage's generator for `conditioning: mel`."""

    def __init__(self, config: Config):
        super().__init__()
        self.vocoder = build_vocoder(config.vocoder, config.audio)

    def forward(
        self, mel: Tensor, crop: Crop | None = None, f0: Tensor | None = None
    ) -> tuple[None, VocoderOutput]:
        """mel (B, n_mels, T), f0 (B, T) for vocoders that take one -> (None, as no decoder makes a mel, and vocoder
        output)."""
        return None, vocode(self.vocoder, mel, crop, f0)


class CodesToWave(nn.Module):
    """The vocoder stage's generator for `conditioning: codes`: decoder and vocoder, which hears what it gives."""

    def __init__(self, config: Config, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder
        self.vocoder = build_vocoder(config.vocoder, config.audio)

    def forward(
        self, codes: Tensor, lengths: Tensor, speaker: Tensor, start: Tensor, n_frames: int, crop: Crop | None = None,
        f0: Tensor | None = None,
    ) -> tuple[Tensor, VocoderOutput]:
        """codes (B, K, T) ... -> (mel (B, n_mels, n_frames), vocoder output); see the decoder's forward."""
        mel = self.decoder(codes, lengths, speaker, start, n_frames)
        return mel, vocode(self.vocoder, mel, crop, f0)


class HiddenToWave(nn.Module):
    """The vocoder stage's generator for `conditioning: hidden`: the language model, a decoder of its states, and the
    vocoder. Only with `joint` is the language model trained; else it stays as it is, in eval mode."""

    def __init__(self, config: Config, lm: TokenLM, decoder: HiddenDecoder):
        super().__init__()
        self.joint = config.train.vocoder.joint
        self.lm = lm.requires_grad_(self.joint)
        self.decoder = decoder
        self.vocoder = build_vocoder(config.vocoder, config.audio)

    def train(self, mode: bool = True) -> "HiddenToWave":
        """Training mode for what is trained; dropout would give states that synthesis never sees."""
        super().train(mode)
        self.lm.train(mode and self.joint)
        return self

    def forward(
        self, text: Tensor, text_lengths: Tensor, codes: Tensor, code_lengths: Tensor, speaker: Tensor,
        language: Tensor, start: Tensor, n_frames: int, crop: Crop | None = None, f0: Tensor | None = None,
    ) -> tuple:
        """Text and codes of whole clips -> (mel (B, n_mels, n_frames) from mel frame `start` (B,) on, vocoder output);
        with `joint` also logits and targets of the codes, as `TokenLM.forward` gives them."""
        with torch.set_grad_enabled(self.joint and torch.is_grad_enabled()):
            states = self.lm.states(text, text_lengths, codes, code_lengths, speaker, language, with_frames=True)
        mel = self.decoder(states.frames, code_lengths, speaker, start, n_frames)
        output = mel, vocode(self.vocoder, mel, crop, f0)
        return (*output, self.lm.logits(states.codes), self.lm.targets(states.steps)) if self.joint else output


def vocode(vocoder: Vocoder, mel: Tensor, crop: Crop | None, f0: Tensor | None) -> VocoderOutput:
    """The vocoder's output of parts of mel (B, n_mels, T) and f0 (B, T)."""
    return vocoder(crop_mel(mel, crop), None if f0 is None else crop_mel(f0, crop))


def generate_wave(generator: nn.Module, batch: dict, mel: Tensor, crop: Crop | None = None) -> tuple:
    """The decoder's mel, if the generator has one, and the vocoder output of a batch: of `SpokenSegments` through the
    language model, whose logits and targets follow if it is trained, too; of `WaveSegments` from its codes where it has
    them, else from its `mel`. A vocoder that needs f0 gets the batch's."""
    f0 = batch.get("f0")
    if "text" in batch:
        return generator(
            batch["text"], batch["text_lengths"], batch["codes"], batch["codes_lengths"], batch["speaker"],
            batch["language"], batch["start"], mel.shape[2], crop, f0,
        )
    if "codes" in batch:
        return generator(batch["codes"], batch["code_length"], batch["speaker"], batch["start"], mel.shape[2], crop, f0)
    return generator(mel, crop, f0)


def load_codec(
    config: Config, model: str | None, checkpoints: str | Path = "checkpoints", *, needs_codes: bool = True,
) -> "Encodec | MelCodec":
    """The trained codec of a config, in eval mode: pretrained EnCodec, or that of `model`, newest or exported.

    ValueError if it is not there, was trained with another config, or has Gaussian latents where codes are needed.
    """
    if not isinstance(config.codec, MelCodecConfig):
        from models.encodec import Encodec  # here, for what it imports takes seconds

        return Encodec(config.codec, config.audio).eval()
    if needs_codes:
        require_codes(config)
    if model is None:
        raise ValueError("a codec of kind mel is trained with a model: name the model whose it is (-m)")
    folder = Path(checkpoints) / model / "codec"
    checkpoint = require_stage(folder, f"python3 train_codec.py -c CONFIG -m {model}")
    stored = parse_config(checkpoint["config"], f"the config in {folder}")
    for section in ("audio", "codec"):
        if getattr(stored, section) != getattr(config, section):
            raise ValueError(f"{folder}: was trained with another {section} section than this config's; "
                             f"use the config it was trained with, or train a codec under another model name")
    # a head for CTC has the symbols of the text frontend, which is stored with it alone
    n_symbols = len(checkpoint["text"]["symbols"]) if "text" in checkpoint else 0
    codec = MelCodec(stored.codec, stored.audio, len(checkpoint["speakers"]), n_symbols)
    codec = load_network(codec, checkpoint, folder)
    codec.speakers = checkpoint["speakers"]
    return codec


def require_codes(config: Config) -> None:
    """ValueError if the codec of a config gives continuous latents, which no language model over codes can use."""
    if isinstance(config.codec, MelCodecConfig) and isinstance(config.codec.bottleneck, GaussianConfig):
        raise ValueError("codec.bottleneck is gaussian: it gives latents, and codes are needed here; set it to fsq or "
                         "rvq and train that codec under another model name")


def build_token_lm(config: Config, checkpoint_data: dict) -> TokenLM:
    """A token LM of the sizes in `checkpoint_data` (symbols, codec, speakers, languages), with fresh weights."""
    return TokenLM(
        config.llm, n_symbols=len(checkpoint_data["text"]["symbols"]),
        n_codebooks=checkpoint_data["codec"]["n_codebooks"], codebook_size=checkpoint_data["codec"]["codebook_size"],
        n_speakers=len(checkpoint_data["speakers"]), n_languages=len(checkpoint_data["languages"]),
    )


def build_aligner(config: Config, checkpoint_data: dict) -> Aligner:
    """An aligner for the symbols and speakers in `checkpoint_data`, with fresh weights."""
    return Aligner(config.aligner, config.audio, len(checkpoint_data["text"]["symbols"]),
                   len(checkpoint_data["speakers"]))


def build_aligned_tts(config: Config, checkpoint_data: dict) -> AlignedTTS:
    """An aligned-duration model for the symbols, speakers and languages in `checkpoint_data`, with fresh weights."""
    return AlignedTTS(
        config.aligned, config.audio, n_symbols=len(checkpoint_data["text"]["symbols"]),
        n_speakers=len(checkpoint_data["speakers"]), n_languages=len(checkpoint_data["languages"]),
    )


def build_wave_generator(config: Config, checkpoint_data: dict) -> MelToWave | CodesToWave | HiddenToWave:
    """The vocoder stage's generator, of the sizes in `checkpoint_data`: speakers and, where the decoder is ours, codec;
    for `conditioning: hidden` also what `build_token_lm` needs."""
    conditioning = config.train.vocoder.conditioning
    if conditioning == "mel":
        return MelToWave(config)
    n_speakers, codec = len(checkpoint_data["speakers"]), checkpoint_data["codec"]
    if conditioning == "hidden":
        decoder = HiddenDecoder(
            config.hidden_decoder, config.audio, config.llm.hidden_size, codec["frame_rate"], n_speakers
        )
        return HiddenToWave(config, build_token_lm(config, checkpoint_data), decoder)
    if isinstance(config.codec, MelCodecConfig):
        return CodesToWave(config, MelCodec(config.codec, config.audio, n_speakers).decoder)
    decoder = TokenDecoder(
        config.token_decoder, config.audio, codec["n_codebooks"], codec["codebook_size"], codec["frame_rate"],
        n_speakers,
    )
    return CodesToWave(config, decoder)


def codec_data(codec: "Encodec | MelCodec") -> dict:
    """What the checkpoints of later stages keep of a codec: enough to size a network and to refuse another codec."""
    return {
        "fingerprint": codec.fingerprint, "n_codebooks": codec.n_codebooks, "codebook_size": codec.codebook_size,
        "frame_rate": codec.frame_rate,
    }


def load_vocoder(config: Config, checkpoint: dict, source: str | Path) -> nn.Module:
    """The vocoder alone of a checkpoint of the vocoder stage, whatever it was conditioned on, ready to speak."""
    vocoder, prefix = build_vocoder(config.vocoder, config.audio), "vocoder."
    weights = {name.removeprefix(prefix): value for name, value in network_weights(checkpoint).items()
               if name.startswith(prefix)}
    load_weights(vocoder, weights, source)
    vocoder.remove_weight_norm()
    return vocoder.eval().requires_grad_(False)


def load_network(network: nn.Module, checkpoint: dict, source: str | Path) -> nn.Module:
    """Puts a checkpoint's weights into a network built for them, and sets it to eval mode."""
    load_weights(network, network_weights(checkpoint), source)
    return network.eval().requires_grad_(False)
