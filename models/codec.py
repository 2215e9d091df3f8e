"""Our own codec: mel frames, `stride` of them stacked into one vector, ConvNeXt, FSQ, and the way back.

Every block works at the code frame rate (about 21.5 a second), so that it trains on a CPU.
"""

import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import AudioConfig, MelCodecConfig
from mel_processing import frames_for, log_mel
from models.layers.convnext import ConvNeXtBlock
from models.layers.fsq import FSQ

# log-mel of speech at -23 LUFS lies between log(1e-5) and about 2; these bring it near zero mean, unit variance
MEL_MEAN, MEL_SCALE = -5.0, 2.5


@dataclass
class CodecOutput:
    mel: Tensor
    """(B, n_mels, T) rebuilt log-mel."""
    codes: Tensor
    """(B, n_codebooks, T / stride)"""


class MelCodec(nn.Module):
    """mel -> codes -> mel, with the speaker given to the decoder, so that the codes need not carry it."""

    def __init__(self, config: MelCodecConfig, audio: AudioConfig, n_speakers: int):
        super().__init__()
        self.audio, self.stride = audio, config.stride
        self.sample_rate = audio.sample_rate
        self.frame_rate = audio.frame_rate / config.stride
        self.quantizer = FSQ(config.levels, config.n_codebooks)
        self.n_codebooks, self.codebook_size = config.n_codebooks, self.quantizer.codebook_size
        n_stacked, hidden = audio.n_mels * config.stride, config.hidden_size
        self.encoder_in = nn.Conv1d(n_stacked, hidden, 1)
        self.encoder = nn.ModuleList(
            ConvNeXtBlock(hidden, layer_scale=1 / config.encoder_layers) for _ in range(config.encoder_layers)
        )
        self.encoder_out = nn.Conv1d(hidden, self.quantizer.n_channels, 1)
        self.decoder = MelDecoder(self.quantizer, config, audio, n_speakers)

    def forward(self, mel: Tensor, speaker: Tensor) -> CodecOutput:
        """mel (B, n_mels, T), T a multiple of the stride; speaker (B,) ids."""
        quantised, codes = self.quantizer(self._encode(mel, mask=None))
        return CodecOutput(self.decoder.from_quantised(quantised, speaker), codes)

    def _encode(self, mel: Tensor, mask: Tensor | None) -> Tensor:
        B, M, T = mel.shape
        # (B, M, T) -> (B, M * stride, T / stride)
        x = mel.view(B, M, T // self.stride, self.stride).transpose(2, 3).reshape(B, M * self.stride, -1)
        x = self.encoder_in((x - MEL_MEAN) / MEL_SCALE)
        for block in self.encoder:
            x = block(x, mask)
        return self.encoder_out(x)

    def frames_for(self, samples: int) -> int:
        """How many code frames `encode` gives for so many samples."""
        return -(-frames_for(samples, self.audio) // self.stride)

    @torch.no_grad()
    def encode(self, wave: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """wave (B, samples) -> codes (B, n_codebooks, frames) and code lengths (B,); a padded clip = the clip alone."""
        lengths = torch.full((len(wave),), wave.shape[1]) if lengths is None else lengths
        mels = [log_mel(w[None, :n], self.audio)[0] for w, n in zip(wave, lengths.tolist(), strict=True)]
        code_lengths = torch.tensor([-(-mel.shape[1] // self.stride) for mel in mels], device=wave.device)
        frames = int(code_lengths.max()) * self.stride
        silence = torch.log(torch.tensor(self.audio.floor)).item()
        mel = torch.stack([F.pad(mel, (0, frames - mel.shape[1]), value=silence) for mel in mels])
        mask = torch.arange(frames // self.stride, device=wave.device) < code_lengths.unsqueeze(1)
        return self.quantizer(self._encode(mel, mask.unsqueeze(1)))[1], code_lengths

    @property
    def fingerprint(self) -> str:
        """Short hash of what decides the codes: encoder weights, quantiser and mel definition."""
        digest = hashlib.sha256(self.audio.model_dump_json().encode())
        digest.update(repr((self.stride, self.quantizer.levels.tolist(), self.n_codebooks)).encode())
        for name, value in sorted(self.state_dict().items()):
            if name.startswith("encoder"):
                digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


class MelDecoder(nn.Module):
    """Codes -> mel: the codec's second half, which synthesis uses alone."""

    def __init__(self, quantizer: FSQ, config: MelCodecConfig, audio: AudioConfig, n_speakers: int):
        super().__init__()
        hidden = config.hidden_size
        self.quantizer, self.stride, self.n_mels = quantizer, config.stride, audio.n_mels
        self.speaker = nn.Embedding(n_speakers, hidden)
        self.project_in = nn.Conv1d(quantizer.n_channels, hidden, 1)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(hidden, layer_scale=1 / config.decoder_layers) for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.project_out = nn.Linear(hidden, audio.n_mels * config.stride)

    def from_quantised(self, quantised: Tensor, speaker: Tensor, mask: Tensor | None = None) -> Tensor:
        """quantised (B, C, T) and speaker (B,) -> mel (B, n_mels, T * stride)."""
        B, _, T = quantised.shape
        x = self.project_in(quantised) + self.speaker(speaker).unsqueeze(2)
        for block in self.blocks:
            x = block(x, mask)
        x = self.project_out(self.norm(x.transpose(1, 2)))  # (B, T, M * stride)
        x = x.view(B, T, self.n_mels, self.stride).permute(0, 2, 1, 3).reshape(B, self.n_mels, -1)
        return x * MEL_SCALE + MEL_MEAN

    def forward(self, codes: Tensor, lengths: Tensor, speaker: Tensor, start: Tensor, n_frames: int) -> Tensor:
        """codes (B, n_codebooks, T), lengths (B,), speaker (B,) -> mel (B, n_mels, n_frames).

        `start` (B,): mel frames between the beginning of the codes and the first frame given, whole numbers here.
        Frames past the end of the codes repeat the last one.
        """
        mask = torch.arange(codes.shape[2], device=codes.device) < lengths.unsqueeze(1)
        mel = self.from_quantised(self.quantizer.dequantise(codes), speaker, mask.unsqueeze(1))
        index = start.round().long().unsqueeze(1) + torch.arange(n_frames, device=mel.device)  # (B, n_frames)
        index = index.clamp(max=mel.shape[2] - 1)
        return mel.gather(2, index.unsqueeze(1).expand(-1, self.n_mels, -1))
