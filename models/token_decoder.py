"""Codes of all codebooks -> mel, for a codec that has no mel decoder of its own (EnCodec)."""

import torch
from torch import Tensor, nn

from config import AudioConfig, TokenDecoderConfig
from models.layers.convnext import ConvNeXtBlock


class TokenDecoder(nn.Module):
    """Summed codebook embeddings, ConvNeXt at the code rate, resampled by time to mel frames, ConvNeXt again."""

    def __init__(
        self, config: TokenDecoderConfig, audio: AudioConfig,
        n_codebooks: int, codebook_size: int, code_frame_rate: float, n_speakers: int,
    ):
        super().__init__()
        hidden = config.hidden_size
        self.codes_per_frame = code_frame_rate / audio.frame_rate
        # where a mel frame is centred, in frames: half a hop in, or on the frame's edge
        self.centre = 0.5 if audio.padding == "same" else 0.0
        self.embeddings = nn.ModuleList(nn.Embedding(codebook_size, hidden) for _ in range(n_codebooks))
        self.speaker = nn.Embedding(n_speakers, hidden)
        blocks = [
            ConvNeXtBlock(hidden, kernel_size=config.kernel_size, layer_scale=1 / config.n_layers)
            for _ in range(config.n_layers)
        ]
        self.code_blocks = nn.ModuleList(blocks[: config.n_layers // 2])
        self.mel_blocks = nn.ModuleList(blocks[config.n_layers // 2 :])
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.project_out = nn.Linear(hidden, audio.n_mels)
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=n_codebooks**-0.5)
        nn.init.constant_(self.project_out.bias, -5.0)  # the mean of speech's log-mel

    def forward(self, codes: Tensor, lengths: Tensor, speaker: Tensor, start: Tensor, n_frames: int) -> Tensor:
        """codes (B, n_codebooks, T), lengths (B,), speaker (B,) -> mel (B, n_mels, n_frames).

        `start` (B,): mel frames (a real number) between the beginning of the codes and the first frame given.
        Mel frames past a clip's last code see no codes, and learn to be silence.
        """
        B, _, T = codes.shape
        mask = (torch.arange(T, device=codes.device) < lengths.unsqueeze(1)).unsqueeze(1)
        x = sum(embedding(codes[:, k]) for k, embedding in enumerate(self.embeddings))  # (B, T, H)
        x = (x + self.speaker(speaker).unsqueeze(1)).transpose(1, 2)  # (B, H, T)
        for block in self.code_blocks:
            x = block(x, mask)

        # linear interpolation at the centre of each mel frame, in code frames whose centres lie at t + 0.5
        frames = torch.arange(n_frames, device=codes.device) + self.centre
        position = (start.unsqueeze(1) + frames) * self.codes_per_frame - 0.5  # (B, n_frames)
        position = torch.minimum(position.clamp(min=0), (lengths - 1).unsqueeze(1))
        left = position.floor().long()
        right = torch.minimum(left + 1, (lengths - 1).unsqueeze(1))
        weight = (position - left).unsqueeze(1).to(x.dtype)
        index = torch.stack([left, right]).unsqueeze(2).expand(-1, -1, x.shape[1], -1)
        x = x.gather(2, index[0]) * (1 - weight) + x.gather(2, index[1]) * weight  # (B, H, n_frames)

        seconds_left = lengths.unsqueeze(1) - (start.unsqueeze(1) + frames) * self.codes_per_frame
        mel_mask = (seconds_left > 0).unsqueeze(1)
        for block in self.mel_blocks:
            x = block(x, mel_mask)
        return self.project_out(self.norm(x.transpose(1, 2))).transpose(1, 2)
