"""Our own codec: mel frames, `stride` of them stacked into one vector, ConvNeXt, a bottleneck, and the way back.

Every block works at the code frame rate (about 21.5 a second), so that it trains on a CPU.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import AudioConfig, BottleneckConfig, FSQConfig, GaussianConfig, MelCodecConfig, RVQConfig
from mel_processing import frames_for, log_mel
from models.layers.convnext import ConvNeXtBlock, FrameConv, frames_ahead
from models.layers.ctc_head import CTCHead
from models.layers.fingerprint import fingerprint
from models.layers.fsq import FSQ
from models.layers.gaussian import Gaussian
from models.layers.mel_scale import standardise, unstandardise
from models.layers.rvq import RVQ


@dataclass
class CodecOutput:
    mel: Tensor
    """(B, n_mels, T) rebuilt log-mel."""
    latents: Tensor
    """(B, n_channels, T / stride): what the decoder read."""
    codes: Tensor | None
    """(B, n_codebooks, T / stride); None of a codec with Gaussian latents."""
    losses: dict[str, Tensor]
    """Of the bottleneck, by name: `commitment` (RVQ), `kl` (Gaussian)."""
    symbol_logits: Tensor | None
    """(B, T / stride * ctc_upsample, n_symbols), with a CTC head."""


def build_bottleneck(config: BottleneckConfig) -> FSQ | RVQ | Gaussian:
    """The bottleneck of the config."""
    match config:
        case FSQConfig():
            return FSQ(config.levels, config.n_codebooks)
        case RVQConfig():
            return RVQ(**config.model_dump(exclude={"kind"}))
        case GaussianConfig():
            return Gaussian(config.latent_size)


class MelCodec(nn.Module):
    """mel -> codes or latents -> mel, with the speaker given to the decoder, so that the codes need not carry it.

    `n_symbols`: with a head for an auxiliary CTC loss over so many symbols, which only training uses.
    """

    def __init__(self, config: MelCodecConfig, audio: AudioConfig, n_speakers: int, n_symbols: int = 0):
        super().__init__()
        self.audio, self.stride = audio, config.stride
        self.sample_rate = audio.sample_rate
        self.frame_rate = audio.frame_rate / config.stride
        bottleneck = build_bottleneck(config.bottleneck)
        self.gives_codes = not isinstance(bottleneck, Gaussian)
        if self.gives_codes:
            self.n_codebooks, self.codebook_size = bottleneck.n_codebooks, bottleneck.codebook_size
        n_stacked, hidden = audio.n_mels * config.stride, config.hidden_size
        self.encoder_in = nn.Conv1d(n_stacked, hidden, 1)
        self.encoder = nn.ModuleList(
            ConvNeXtBlock(hidden, layer_scale=1 / config.encoder_layers) for _ in range(config.encoder_layers)
        )
        self.encoder_out = nn.Conv1d(hidden, bottleneck.in_channels, 1)
        self.decoder = MelDecoder(bottleneck, config, audio, n_speakers)
        self.ctc_head = None
        if n_symbols:
            self.ctc_head = CTCHead(bottleneck.n_channels, hidden, n_symbols, config.ctc_upsample)

    @property
    def bottleneck(self) -> FSQ | RVQ | Gaussian:
        """Between encoder and decoder; the decoder keeps it, since synthesis uses that alone."""
        return self.decoder.bottleneck

    def forward(self, mel: Tensor, speaker: Tensor, mask: Tensor | None = None) -> CodecOutput:
        """mel (B, n_mels, T), T a multiple of the stride; speaker (B,); `mask` (B, 1, T / stride), 0 for padding."""
        latents, codes, losses = self.bottleneck(self._encode(mel, mask), mask)
        logits = self.ctc_head(latents, mask) if self.ctc_head else None
        return CodecOutput(self.decoder.from_latents(latents, speaker, mask), latents, codes, losses, logits)

    def _encode(self, mel: Tensor, mask: Tensor | None) -> Tensor:
        B, M, T = mel.shape
        # (B, M, T) -> (B, M * stride, T / stride)
        x = mel.view(B, M, T // self.stride, self.stride).transpose(2, 3).reshape(B, M * self.stride, -1)
        x = self.encoder_in(standardise(x))
        for block in self.encoder:
            x = block(x, mask)
        return self.encoder_out(x)

    def frames_for(self, samples: int) -> int:
        """How many code frames `encode` gives for so many samples."""
        return -(-frames_for(samples, self.audio) // self.stride)

    def mel_and_mask(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """wave (B, samples) of `lengths` (B,) samples -> the mel that each clip has alone, completed with silence to
        whole code frames (B, n_mels, T * stride), and a mask (B, 1, T) of the code frames."""
        mels = [log_mel(w[None, :n], self.audio)[0] for w, n in zip(wave, lengths.tolist(), strict=True)]
        code_lengths = torch.tensor([-(-mel.shape[1] // self.stride) for mel in mels], device=wave.device)
        T = int(code_lengths.max())
        silence = torch.log(torch.tensor(self.audio.floor)).item()
        mel = torch.stack([F.pad(mel, (0, T * self.stride - mel.shape[1]), value=silence) for mel in mels])
        return mel, (torch.arange(T, device=wave.device) < code_lengths.unsqueeze(1)).unsqueeze(1)

    @torch.no_grad()
    def encode(self, wave: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """wave (B, samples) -> codes (B, n_codebooks, frames) and code lengths (B,); a padded clip = the clip alone.

        ValueError from a codec with Gaussian latents.
        """
        if not self.gives_codes:
            raise ValueError("a codec with a gaussian bottleneck gives latents, not codes: use encode_latents, or set "
                             "codec.bottleneck to fsq or rvq and train it")
        encoded, code_lengths = self._bottlenecked(wave, lengths)
        return encoded.codes, code_lengths

    @torch.no_grad()
    def encode_latents(self, wave: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """wave (B, samples) -> latents (B, n_channels, frames), and their lengths (B,): the Gaussian means, or the
        quantised vectors; a padded clip = the clip alone."""
        encoded, code_lengths = self._bottlenecked(wave, lengths)
        return encoded.latents, code_lengths

    def _bottlenecked(self, wave: Tensor, lengths: Tensor | None):
        lengths = torch.full((len(wave),), wave.shape[1]) if lengths is None else lengths
        mel, mask = self.mel_and_mask(wave, lengths)
        return self.bottleneck(self._encode(mel, mask), mask), mask.sum(dim=(1, 2))

    @torch.no_grad()
    def decode_mel(self, codes: Tensor, lengths: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor]:
        """codes (B, n_codebooks, T), lengths (B,), speaker (B,) -> log-mel (B, n_mels, frames), mel lengths (B,)."""
        start = torch.zeros(len(codes), device=codes.device)
        return self.decoder(codes, lengths, speaker, start, codes.shape[2] * self.stride), lengths * self.stride

    @property
    def fingerprint(self) -> str:
        """Short hash of what decides the codes: encoder weights, bottleneck and mel definition."""
        settings, codebooks = self.bottleneck.identity()
        encoder = [value for name, value in sorted(self.state_dict().items()) if name.startswith("encoder")]
        return fingerprint(self.audio.model_dump_json() + repr((self.stride, *settings)), [*encoder, *codebooks])


class MelDecoder(nn.Module):
    """Codes or latents -> mel: the codec's second half, which synthesis uses alone."""

    def __init__(self, bottleneck: FSQ | RVQ | Gaussian, config: MelCodecConfig, audio: AudioConfig, n_speakers: int):
        super().__init__()
        hidden = config.hidden_size
        self.bottleneck, self.stride, self.n_mels = bottleneck, config.stride, audio.n_mels
        self.feature_size = bottleneck.n_channels
        self.speaker = nn.Embedding(n_speakers, hidden)
        self.project_in = FrameConv(bottleneck.n_channels, hidden, 1, ahead=0)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(hidden, layer_scale=1 / config.decoder_layers, ahead=ahead)
            for ahead in frames_ahead(config.lookahead, config.decoder_layers)
        )
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.project_out = nn.Linear(hidden, audio.n_mels * config.stride)

    def from_latents(self, latents: Tensor, speaker: Tensor, mask: Tensor | None = None) -> Tensor:
        """latents (B, n_channels, T) and speaker (B,) -> mel (B, n_mels, T * stride)."""
        B, _, T = latents.shape
        x = self.project_in(latents) + self.speaker(speaker).unsqueeze(2)
        for block in self.blocks:
            x = block(x, mask)
        x = self.project_out(self.norm(x.transpose(1, 2)))  # (B, T, M * stride)
        x = x.view(B, T, self.n_mels, self.stride).permute(0, 2, 1, 3).reshape(B, self.n_mels, -1)
        return unstandardise(x)

    def forward(self, codes: Tensor, lengths: Tensor, speaker: Tensor, start: Tensor, n_frames: int) -> Tensor:
        """codes (B, n_codebooks, T), lengths (B,), speaker (B,) -> mel (B, n_mels, n_frames).

        `start` (B,): mel frames between the beginning of the codes and the first frame given, whole numbers here.
        Frames past the end of the codes repeat the last one.
        """
        return self.mel_from_features(self.features(codes), lengths, speaker, start, n_frames)

    def features(self, codes: Tensor) -> Tensor:
        """codes (B, n_codebooks, T) -> (B, T, feature_size), each frame by itself."""
        return self.bottleneck.dequantise(codes).transpose(1, 2)

    def mel_from_features(self, x: Tensor, lengths: Tensor, speaker: Tensor, start: Tensor, n_frames: int) -> Tensor:
        """`forward` from features (B, T, feature_size) on."""
        mask = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
        mel = self.from_latents(x.transpose(1, 2), speaker, mask.unsqueeze(1))
        index = start.round().long().unsqueeze(1) + torch.arange(n_frames, device=mel.device)  # (B, n_frames)
        index = index.clamp(max=mel.shape[2] - 1)
        return mel.gather(2, index.unsqueeze(1).expand(-1, self.n_mels, -1))
