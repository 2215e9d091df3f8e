"""Rebuilds networks: fresh from a config, or trained from a checkpoint."""

from pathlib import Path

from torch import Tensor, nn

from checkpoints import load_weights, network_weights, require_checkpoint
from config import Config, MelCodecConfig, parse_config
from models.codec import MelCodec
from models.encodec import Encodec
from models.token_decoder import TokenDecoder
from models.token_lm import TokenLM
from models.vocoder import VocoderOutput, build_vocoder

__all__ = [
    "CodesToWave", "MelToWave", "build_token_lm", "build_wave_generator", "codec_data", "generate_wave", "load_codec",
    "load_network",
]


class MelToWave(nn.Module):
    """The vocoder stage's generator for `conditioning: mel`."""

    def __init__(self, config: Config):
        super().__init__()
        self.vocoder = build_vocoder(config.vocoder, config.audio)

    def forward(self, mel):
        """mel (B, n_mels, T) -> (None, as no decoder makes a mel, and vocoder output)."""
        return None, self.vocoder(mel)


class CodesToWave(nn.Module):
    """The vocoder stage's generator for `conditioning: codes`: decoder and vocoder, which hears what it gives."""

    def __init__(self, config: Config, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder
        self.vocoder = build_vocoder(config.vocoder, config.audio)

    def forward(self, codes, lengths, speaker, start, n_frames: int):
        """codes (B, K, T) ... -> (mel (B, n_mels, n_frames), vocoder output); see the decoder's forward."""
        mel = self.decoder(codes, lengths, speaker, start, n_frames)
        return mel, self.vocoder(mel)


def generate_wave(generator: nn.Module, batch: dict, mel: Tensor) -> tuple[Tensor | None, VocoderOutput]:
    """The decoder's mel, if the generator has one, and the vocoder output for a batch of `WaveSegments`: from its codes
    where it has them, else from its `mel`."""
    if "codes" not in batch:
        return generator(mel)
    return generator(batch["codes"], batch["code_length"], batch["speaker"], batch["start"], mel.shape[2])


def load_codec(config: Config, model: str | None, checkpoints: str | Path = "checkpoints") -> Encodec | MelCodec:
    """The trained codec of a config, in eval mode: pretrained EnCodec, or the newest codec checkpoint of `model`."""
    if not isinstance(config.codec, MelCodecConfig):
        return Encodec(config.codec).eval()
    if model is None:
        raise ValueError("a codec of kind mel is trained with a model: name the model whose it is (-m)")
    folder = Path(checkpoints) / model / "codec"
    checkpoint = require_checkpoint(folder, f"python3 train_codec.py -c CONFIG -m {model}")
    stored = parse_config(checkpoint["config"], f"the config in {folder}")
    for section in ("audio", "codec"):
        if getattr(stored, section) != getattr(config, section):
            raise ValueError(f"{folder}: was trained with another {section} section than this config's; "
                             f"use the config it was trained with, or train a codec under another model name")
    codec = load_network(MelCodec(stored.codec, stored.audio, len(checkpoint["speakers"])), checkpoint, folder)
    codec.speakers = checkpoint["speakers"]
    return codec


def build_token_lm(config: Config, checkpoint_data: dict) -> TokenLM:
    """A token LM of the sizes in `checkpoint_data` (symbols, codec, speakers, languages), with fresh weights."""
    return TokenLM(
        config.llm, n_symbols=len(checkpoint_data["text"]["symbols"]),
        n_codebooks=checkpoint_data["codec"]["n_codebooks"], codebook_size=checkpoint_data["codec"]["codebook_size"],
        n_speakers=len(checkpoint_data["speakers"]), n_languages=len(checkpoint_data["languages"]),
    )


def build_wave_generator(config: Config, n_speakers: int, codec_data: dict | None) -> MelToWave | CodesToWave:
    """The vocoder stage's generator; `codec_data` sizes the decoder for `conditioning: codes`."""
    if config.train.vocoder.conditioning == "mel":
        return MelToWave(config)
    if isinstance(config.codec, MelCodecConfig):
        return CodesToWave(config, MelCodec(config.codec, config.audio, n_speakers).decoder)
    decoder = TokenDecoder(
        config.token_decoder, config.audio, codec_data["n_codebooks"], codec_data["codebook_size"],
        codec_data["frame_rate"], n_speakers,
    )
    return CodesToWave(config, decoder)


def codec_data(codec: Encodec | MelCodec) -> dict:
    """What the checkpoints of later stages keep of a codec: enough to size a network and to refuse another codec."""
    return {
        "fingerprint": codec.fingerprint, "n_codebooks": codec.n_codebooks, "codebook_size": codec.codebook_size,
        "frame_rate": codec.frame_rate,
    }


def load_network(network: nn.Module, checkpoint: dict, source: str | Path) -> nn.Module:
    """Puts a checkpoint's weights into a network built for them, and sets it to eval mode."""
    load_weights(network, network_weights(checkpoint), source)
    return network.eval().requires_grad_(False)
