"""EnCodec 24 kHz (Défossez et al. 2022, arXiv 2210.13438): wave -> codes -> wave, with pretrained weights.

The weights come from a folder in hub format (`config.json` and `model.safetensors`), or from Meta's original file.
"""

import json
import math
import pickle
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import EncodecConfig as HubConfig
from transformers import EncodecModel

from config import AudioConfig, EncodecConfig
from mel_processing import log_mel, resample
from models.layers.fingerprint import fingerprint

ORIGINAL_FILE = "encodec_24khz-d7cc33bc.th"

# original -> hub; older hub files, too, call the magnitude and direction of a weight norm g and v
RENAMES = [
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"\.(conv\.conv|convtr\.convtr)\.", ".conv."),
    (r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook."),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
]


class Encodec(nn.Module):
    """The hub's model behind the codec interface; frozen, always in float32.

    A clip is completed with silence to whole code frames. The network is causal, so that a padded clip of a batch gets
    the codes that it gets alone; a clip of whole frames gets exactly the hub model's. ValueError says what is wrong
    with the folder, its files or the bandwidth.
    """

    gives_codes = True

    def __init__(self, config: EncodecConfig, audio: AudioConfig = AudioConfig()):  # noqa: B008 (frozen)
        """`audio`: the mel that `decode_mel` gives, of any sample rate."""
        super().__init__()
        self.audio = audio
        self.model = load_encodec(config.path).eval().requires_grad_(False)
        hub, self.bandwidth = self.model.config, config.bandwidth
        if self.bandwidth not in hub.target_bandwidths:
            raise ValueError(f"{config.path}: codec.bandwidth is {self.bandwidth}, the model has "
                             f"{', '.join(map(str, hub.target_bandwidths))}")
        self.n_codebooks = self.model.quantizer.get_num_quantizers_for_bandwidth(self.bandwidth)
        self.codebook_size = hub.codebook_size
        self.sample_rate, self.hop_length = hub.sampling_rate, hub.hop_length
        self.frame_rate = self.sample_rate / self.hop_length
        # the last convolution reflects so many frames at its left end; it treats shorter inputs in another way
        self.min_frames = hub.last_kernel_size
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        """Short hash of what decides the codes: encoder, codebooks in use, architecture."""
        settings = {name: getattr(self.model.config, name) for name in HubConfig.__annotations__}
        codebooks = [layer.codebook.embed for layer in self.model.quantizer.layers[: self.n_codebooks]]
        weights = [*self.model.encoder.state_dict().values(), *codebooks]
        return fingerprint(json.dumps([settings, self.n_codebooks], sort_keys=True), weights)

    def frames_for(self, samples: int) -> int:
        """How many code frames `encode` gives for so many samples."""
        return -(-samples // self.hop_length)

    @torch.no_grad()
    def encode(self, wave: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """wave (B, samples) in [-1, 1] at `sample_rate` -> codes (B, n_codebooks, frames) and code lengths (B,).

        `lengths` (B,): valid samples of each clip; what lies behind them is not used.
        """
        B, samples = wave.shape
        if lengths is None:
            lengths = torch.full((B,), samples, device=wave.device)
        padding = torch.arange(samples, device=wave.device) >= lengths.unsqueeze(1)  # (B, samples)
        frames = max(self.frames_for(samples), self.min_frames)
        wave = F.pad(wave.float().masked_fill(padding, 0), (0, frames * self.hop_length - samples))
        with torch.autocast(wave.device.type, enabled=False):
            codes = self.model.encode(wave.unsqueeze(1), bandwidth=self.bandwidth).audio_codes[0]  # (B, K, frames)
        code_lengths = -(-lengths // self.hop_length)
        return codes[..., : self.frames_for(samples)], code_lengths

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, any number of codebooks up to the model's, frames) -> wave (B, frames * hop_length)."""
        with torch.autocast(codes.device.type, enabled=False):
            return self.model.decode(codes.unsqueeze(0), [None]).audio_values.squeeze(1)

    @torch.no_grad()
    def decode_mel(self, codes: Tensor, lengths: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor]:
        """codes (B, n_codebooks, T), lengths (B,) -> log-mel (B, n_mels, frames) of the waves, mel lengths (B,).

        The speaker is in the codes: `speaker` (B,) is not used.
        """
        mels = []
        for clip, length in zip(codes, lengths.tolist(), strict=True):
            wave = resample(self.decode(clip[None, :, :length])[0], self.sample_rate, self.audio.sample_rate)
            mels.append(log_mel(wave[None], self.audio)[0].T)  # (frames, n_mels)
        silence = math.log(self.audio.floor)
        mel = nn.utils.rnn.pad_sequence(mels, batch_first=True, padding_value=silence).transpose(1, 2)
        return mel, torch.tensor([len(clip) for clip in mels], device=codes.device)


def load_encodec(folder: str | Path) -> EncodecModel:
    """The hub's model with the weights of a folder; both formats there: the hub's is taken. Nothing is downloaded."""
    folder = Path(folder)
    original, converted, settings = folder / ORIGINAL_FILE, folder / "model.safetensors", folder / "config.json"
    if converted.is_file() and settings.is_file():
        weights, config = _read_converted(converted), _read_settings(settings)
        source = converted
    elif original.is_file():
        weights, config, source = _read_original(original), HubConfig(), original
    else:
        raise ValueError(f"{folder}: holds neither config.json and model.safetensors nor {ORIGINAL_FILE}; "
                         "get them with: python3 download.py encodec")
    model = EncodecModel(config)
    try:
        model.load_state_dict(convert_names(weights))
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ValueError(f"{source}: not the weights of this EnCodec: {' '.join(lines[1:4]).strip()[:400]}") from error
    return model


def convert_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of Meta's repository, or of older hub files, turned into those of `EncodecModel`."""
    return {_convert_name(name): value for name, value in weights.items()}


def _convert_name(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _read_original(path: Path) -> dict[str, Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: damaged; delete it, then: python3 download.py encodec") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path}: not a file of weights; delete it, then: python3 download.py encodec")
    return weights


def _read_converted(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error}); delete it, then: python3 download.py encodec") from error


def _read_settings(path: Path) -> HubConfig:
    """Only what `Encodec` promises is let through: mono, causal, one chunk, level kept (as EnCodec 24 kHz is)."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(values, dict) or values.get("model_type") != "encodec":
        raise ValueError(f"{path}: not the config of an EnCodec (model_type must be encodec)")
    config = HubConfig.from_dict(values)
    needed = {"audio_channels": 1, "normalize": False, "chunk_length_s": None, "use_causal_conv": True,
              "norm_type": "weight_norm"}
    wrong = [f"{key} is {getattr(config, key)}" for key, value in needed.items() if getattr(config, key) != value]
    if wrong:
        raise ValueError(f"{path}: {', '.join(wrong)}: only the causal mono model (EnCodec 24 kHz) can be used")
    return config
