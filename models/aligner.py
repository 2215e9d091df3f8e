"""Aligner: which symbol is heard in each mel frame, and from that where the units of a known text are.

A frame classifier with a narrow view (`context`), trained by the sum over all alignments (forward-sum): since it cannot
see where in the sentence it is, it has to mark a sound where it sounds. Scores are p(symbol | frame) / p(symbol)^k,
proportional to p(frame | symbol): without the division a frequent symbol, silence before all, takes frames from its
neighbours (arXiv 2105.14849).
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from config import AlignerConfig, AudioConfig
from models.layers.alignment import monotonic_path
from models.layers.convnext import ConvNeXtBlock
from models.layers.mel_scale import standardise
from processes import add_up_

MOMENTUM = 0.9  # of the shares: they must follow faster than a symbol can spread
MIN_FRAMES = 2


class Aligner(nn.Module):
    """mel frames -> log p(symbol | frame); `emissions` of a text's units, its best path, and the score of that.

    Speaker 0 stands for any: some clips of the training are given it, so that others' recordings can be aligned.
    """

    def __init__(self, config: AlignerConfig, audio: AudioConfig, n_symbols: int, n_speakers: int):
        super().__init__()
        hidden = config.hidden_size
        self.prior_scale = config.prior_scale
        self.speaker = nn.Embedding(1 + n_speakers, hidden)
        self.project_in = nn.Conv1d(audio.n_mels, hidden, 3, padding=1)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(hidden, 2 * hidden, config.kernel_size, layer_scale=1 / config.n_layers)
            for _ in range(config.n_layers)
        )
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.project_out = nn.Linear(hidden, n_symbols)
        nn.init.normal_(self.speaker.weight, std=0.02)
        self.register_buffer("symbol_shares", torch.full((n_symbols,), 1 / n_symbols))

    def forward(self, mel: Tensor, frames: Tensor, speaker: Tensor) -> Tensor:
        """log-mel (B, n_mels, T) of `frames` (B,), speaker (B,) -> log p(symbol | frame) (B, T, n_symbols).

        A padded clip gives on its own frames what it gives alone. In training the running shares of the symbols follow.
        """
        mask = torch.arange(mel.shape[2], device=mel.device) < frames.unsqueeze(1)  # (B, T)
        masked = mask.unsqueeze(1).to(mel.dtype)
        mel = standardise(mel) * masked
        mean = mel.sum(2, keepdim=True) / frames.view(-1, 1, 1)  # the channel, and much of the voice
        x = self.project_in((mel - mean) * masked) + self.speaker(speaker).unsqueeze(2)
        for block in self.blocks:
            x = block(x, masked)
        log_p = self.project_out(self.norm(x.transpose(1, 2))).float().log_softmax(-1)
        if self.training:
            with torch.no_grad():
                shares, count = log_p[mask].exp().sum(0), mask.sum()
                add_up_(shares)
                add_up_(count)
                self.symbol_shares.lerp_(shares / count, 1 - MOMENTUM)
        return log_p

    def emissions(self, log_p: Tensor, units: Tensor) -> Tensor:
        """log p(symbol | frame) - k log p(symbol) of the units: (B, T, n_symbols), ids (B, L) -> (B, T, L)."""
        scores = log_p - self.prior_scale * self.symbol_shares.clamp(min=1e-5).log()
        return scores.gather(2, units.unsqueeze(1).expand(-1, log_p.shape[1], -1))

    @torch.no_grad()
    def align(
        self, log_p: Tensor, frames: Tensor, units: Tensor, lengths: Tensor, optional: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Frames of each unit (B, L), and a score (B,): the mean over the units that are phones of the mean
        log p(symbol | frame) of their frames. A text that is not what is said scores low.

        Phones have at least MIN_FRAMES where the clip has so many frames, else at least one.
        """
        durations = self._paths(self.emissions(log_p, units), frames, lengths, optional.bool())
        scores = []
        for clip, (n, of_units) in enumerate(zip(durations, units, strict=True)):
            n_units = int(lengths[clip])
            owner = torch.repeat_interleave(torch.arange(n_units, device=n.device), n[:n_units])
            heard = log_p[clip, torch.arange(len(owner), device=n.device), of_units[owner]]
            mean = torch.zeros(n_units, device=n.device).index_add_(0, owner, heard) / n[:n_units].clamp(min=1)
            scores.append(mean[~optional[clip, :n_units].bool()].mean())
        return durations, torch.stack(scores)

    def _paths(self, emissions: Tensor, frames: Tensor, lengths: Tensor, optional: Tensor) -> Tensor:
        """The best paths' durations (B, L): every phone is MIN_FRAMES units in a row, each of a frame or more."""
        L = emissions.shape[2]
        inside = torch.arange(L, device=emissions.device) < lengths.unsqueeze(1)
        repeats = torch.where(optional, 1, MIN_FRAMES) * inside
        too_many = (repeats * ~optional).sum(1) > frames
        repeats = torch.where(too_many.unsqueeze(1), inside.long(), repeats)
        owner = pad_sequence(
            [torch.repeat_interleave(torch.arange(L, device=n.device), n) for n in repeats], batch_first=True
        )  # (B, L'): which unit each of the repeated ones is
        repeated = emissions.gather(2, owner.unsqueeze(1).expand(-1, emissions.shape[1], -1))
        durations = monotonic_path(repeated, frames, repeats.sum(1), optional.gather(1, owner))
        return torch.zeros_like(repeats).scatter_add_(1, owner, durations)
