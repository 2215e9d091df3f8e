"""Features at a code rate -> mel frames: ConvNeXt at the code rate, resampled by time, ConvNeXt at the mel rate."""

import torch
from torch import Tensor, nn

from models.layers.convnext import ConvNeXtBlock


class FrameDecoder(nn.Module):
    """What token decoder and hidden-state decoder share; they differ in where the features come from."""

    def __init__(
        self, *, hidden_size: int, n_layers: int, kernel_size: int, n_mels: int, codes_per_frame: float, centre: float,
        n_speakers: int,
    ):
        """`codes_per_frame`: code rate over mel frame rate; `centre`: where in its hop a mel frame is centred."""
        super().__init__()
        self.codes_per_frame, self.centre, self.feature_size = codes_per_frame, centre, hidden_size
        self.speaker = nn.Embedding(n_speakers, hidden_size)
        blocks = [
            ConvNeXtBlock(hidden_size, kernel_size=kernel_size, layer_scale=1 / n_layers) for _ in range(n_layers)
        ]
        self.code_blocks = nn.ModuleList(blocks[: n_layers // 2])
        self.mel_blocks = nn.ModuleList(blocks[n_layers // 2 :])
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.project_out = nn.Linear(hidden_size, n_mels)
        nn.init.constant_(self.project_out.bias, -5.0)  # the mean of speech's log-mel

    def mel_from_features(
        self, x: Tensor, lengths: Tensor, speaker: Tensor, start: Tensor, n_frames: int
    ) -> Tensor:
        """x (B, T, feature_size), lengths (B,), speaker (B,) -> mel (B, n_mels, n_frames).

        `start` (B,): mel frames (a real number) between the beginning of the features and the first frame given.
        Mel frames past a clip's last code see no codes, and learn to be silence.
        """
        T = x.shape[1]
        mask = (torch.arange(T, device=x.device) < lengths.unsqueeze(1)).unsqueeze(1)
        x = (x + self.speaker(speaker).unsqueeze(1)).transpose(1, 2)  # (B, H, T)
        for block in self.code_blocks:
            x = block(x, mask)

        # linear interpolation at the centre of each mel frame, in code frames whose centres lie at t + 0.5; in double
        # precision, so that a part of a clip gets what the whole clip gives there
        frames = torch.arange(n_frames, device=x.device) + self.centre
        position = (start.double().unsqueeze(1) + frames) * self.codes_per_frame - 0.5  # (B, n_frames)
        position = torch.minimum(position.clamp(min=0), (lengths - 1).unsqueeze(1))
        left = position.floor().long()
        right = torch.minimum(left + 1, (lengths - 1).unsqueeze(1))
        weight = (position - left).unsqueeze(1).to(x.dtype)
        index = torch.stack([left, right]).unsqueeze(2).expand(-1, -1, x.shape[1], -1)
        x = x.gather(2, index[0]) * (1 - weight) + x.gather(2, index[1]) * weight  # (B, H, n_frames)

        codes_left = lengths.unsqueeze(1) - (start.double().unsqueeze(1) + frames) * self.codes_per_frame
        mel_mask = (codes_left > 0).unsqueeze(1)
        for block in self.mel_blocks:
            x = block(x, mel_mask)
        return self.project_out(self.norm(x.transpose(1, 2))).transpose(1, 2)
