"""Predicts the symbols of a clip from its code frames, for an auxiliary CTC loss (Graves et al. 2006)."""

from torch import Tensor, nn

from models.layers.convnext import ConvNeXtBlock


class CTCHead(nn.Module):
    """Two ConvNeXt blocks at the code rate, then `upsample` predictions a frame, since speech has more symbols a second
    than a low-rate codec has frames."""

    N_BLOCKS = 2

    def __init__(self, n_channels: int, hidden_size: int, n_symbols: int, upsample: int):
        super().__init__()
        self.n_symbols, self.upsample = n_symbols, upsample
        self.project_in = nn.Conv1d(n_channels, hidden_size, 1)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(hidden_size, layer_scale=1 / self.N_BLOCKS) for _ in range(self.N_BLOCKS)
        )
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.project_out = nn.Linear(hidden_size, upsample * n_symbols)

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """latents (B, n_channels, T) -> logits (B, T * upsample, n_symbols); the blank is symbol 0, padding."""
        B, _, T = latents.shape
        x = self.project_in(latents)
        for block in self.blocks:
            x = block(x, mask)
        return self.project_out(self.norm(x.transpose(1, 2))).view(B, T * self.upsample, self.n_symbols)
