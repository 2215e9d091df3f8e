"""From features at each position (a few mel frames) to mel: all at once, by flow matching, or one after the other.

All have the same three calls, which give a `DecoderOutput`: `forward(features, mask, target)` for training,
`generate(features, mask, noise)`, and `pieces(features, noise, ends)`, which yields what `generate` gives of a text
alone, up to each of the positions `ends`. Shapes: features (B, P, C), mask (B, P) True for a text's positions, mel (B,
P, out_size) standardised to about mean 0 and variance 1, noise like the mel. Behind a text's end nothing has a meaning.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.layers.backbone import build_backbone, empty_cache
from models.layers.convnext import ConvNeXtBlock
from models.layers.phoneme_encoder import sinusoids

SIGMA_MIN = 1e-4  # what is left of the noise at time 1


@dataclass
class DecoderOutput:
    """Mel, and what else training compares with the recording."""

    mel: Tensor
    """(B, P, out_size)"""
    velocity: Tensor | None = None
    """(B, P, out_size) of the flow, with what it ought to be"""
    velocity_target: Tensor | None = None
    stop_logits: Tensor | None = None
    """(B, P) that a position is the last"""


class ConvNeXtStack(nn.Module):
    """ConvNeXt blocks, each of which hears the condition anew."""

    def __init__(self, channels: int, n_layers: int, kernel_size: int, condition_size: int = 0):
        super().__init__()
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(channels, kernel_size=kernel_size, layer_scale=1 / n_layers) for _ in range(n_layers)
        )
        self.conditions = nn.ModuleList(
            nn.Linear(condition_size, channels) for _ in range(n_layers if condition_size else 0)
        )
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor, mask: Tensor, condition: Tensor | None = None) -> Tensor:
        """x (B, P, C), mask (B, P), condition (B, condition_size) -> (B, P, C)."""
        x, mask = x.transpose(1, 2), mask.unsqueeze(1)
        for i, block in enumerate(self.blocks):
            if condition is not None:
                x = x + self.conditions[i](condition).unsqueeze(2)
            x = block(x, mask)
        return self.norm(x.transpose(1, 2))


class ConvolutionalDecoder(nn.Module):
    """What has a view of `reach` positions to either side."""

    reach: int

    def generate(self, features: Tensor, mask: Tensor, noise: Tensor) -> DecoderOutput:
        raise NotImplementedError

    def pieces(self, features: Tensor, noise: Tensor, ends: list[int]) -> Iterator[DecoderOutput]:
        begin = 0
        for end in ends:
            first, seen = max(0, begin - self.reach), slice(max(0, begin - self.reach), end + self.reach)
            mask = torch.ones_like(features[:, seen, 0], dtype=torch.bool)
            mel = self.generate(features[:, seen], mask, noise[:, seen]).mel
            yield DecoderOutput(mel[:, begin - first : end - first])
            begin = end


class ParallelDecoder(ConvolutionalDecoder):
    """Features -> mel in one pass."""

    def __init__(self, in_size: int, out_size: int, *, hidden_size: int, n_layers: int, kernel_size: int):
        super().__init__()
        self.project_in = nn.Linear(in_size, hidden_size)
        self.stack = ConvNeXtStack(hidden_size, n_layers, kernel_size)
        self.project_out = nn.Linear(hidden_size, out_size)
        self.reach = n_layers * (kernel_size // 2)

    def forward(self, features: Tensor, mask: Tensor, target: Tensor) -> DecoderOutput:
        return self.generate(features, mask, target)

    def generate(self, features: Tensor, mask: Tensor, noise: Tensor) -> DecoderOutput:
        return DecoderOutput(self.project_out(self.stack(self.project_in(features), mask)))


class FlowDecoder(ConvolutionalDecoder):
    """A coarse mel, and a flow from noise to the mel that it makes likely (optimal-transport conditional flow matching,
    arXiv 2210.02747): x_t = (1 - (1 - s) t) x_0 + t x_1, whose velocity x_1 - (1 - s) x_0 the network learns."""

    def __init__(
        self, in_size: int, out_size: int, *, hidden_size: int, n_layers: int, kernel_size: int, n_steps: int,
    ):
        """Synthesis takes `n_steps` Euler steps."""
        super().__init__()
        self.width, self.n_steps = hidden_size, n_steps
        self.reach = n_steps * n_layers * (kernel_size // 2)
        width = hidden_size
        self.coarse = nn.Linear(in_size, out_size)
        self.project_features = nn.Linear(in_size + out_size, width)
        self.project_noise = nn.Linear(out_size, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.stack = ConvNeXtStack(width, n_layers, kernel_size, condition_size=width)
        self.project_out = nn.Linear(width, out_size)

    def velocity(self, x: Tensor, time: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        """x (B, P, out_size) at time (B,), condition (B, P, width) -> (B, P, out_size)."""
        angles = _time_sinusoids(time, self.width)
        return self.project_out(self.stack(condition + self.project_noise(x), mask, self.time(angles)))

    def condition(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The coarse mel (B, P, out_size) and the condition (B, P, width)."""
        coarse = self.coarse(features)
        return coarse, self.project_features(torch.cat([features, coarse.detach()], dim=2))

    def forward(self, features: Tensor, mask: Tensor, target: Tensor) -> DecoderOutput:
        coarse, condition = self.condition(features)
        time = torch.rand(len(target), device=target.device)
        noise, at = torch.randn_like(target), time.view(-1, 1, 1)
        x = (1 - (1 - SIGMA_MIN) * at) * noise + at * target
        velocity = self.velocity(x, time, condition, mask)
        return DecoderOutput(coarse, velocity, target - (1 - SIGMA_MIN) * noise)

    def generate(self, features: Tensor, mask: Tensor, noise: Tensor) -> DecoderOutput:
        _, condition = self.condition(features)
        x = noise
        for step in range(self.n_steps):
            time = torch.full((len(x),), step / self.n_steps, device=x.device)
            x = x + self.velocity(x, time, condition, mask) / self.n_steps
        return DecoderOutput(x)


class AutoregressiveDecoder(nn.Module):
    """A transformer with masked attention that hears the position before, and says when it has ended (Tacotron 2's way
    of stopping, arXiv 1712.05884)."""

    def __init__(
        self, in_size: int, out_size: int, *, hidden_size: int, n_layers: int, n_heads: int, intermediate_size: int,
        max_positions: int, prenet_dropout: float, gradient_checkpointing: bool = False,
    ):
        super().__init__()
        width = hidden_size
        self.project_in = nn.Linear(in_size, width)
        self.prenet = nn.Sequential(
            nn.Linear(out_size, width), nn.ReLU(), nn.Dropout(prenet_dropout),
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(prenet_dropout),
        )
        self.body = build_backbone(
            "llama", n_symbols=1, hidden_size=width, n_layers=n_layers, n_heads=n_heads, n_kv_heads=None,
            head_size=None, intermediate_size=intermediate_size, rope_theta=None,
            max_positions=max_positions, dropout=0.0, gradient_checkpointing=gradient_checkpointing,
        )
        self.project_out = nn.Linear(width, out_size)
        self.stop = nn.Linear(width, 1)

    def forward(self, features: Tensor, mask: Tensor, target: Tensor) -> DecoderOutput:
        before = torch.cat([torch.zeros_like(target[:, :1]), target[:, :-1]], dim=1)
        inputs = self.project_in(features) + self.prenet(before)
        hidden = self.body(inputs_embeds=inputs, use_cache=False).last_hidden_state
        return DecoderOutput(self.project_out(hidden), stop_logits=self.stop(hidden).squeeze(2))

    def generate(self, features: Tensor, mask: Tensor, noise: Tensor) -> DecoderOutput:
        output, = self.pieces(features, noise, [features.shape[1]])
        return output

    def pieces(self, features: Tensor, noise: Tensor, ends: list[int]) -> Iterator[DecoderOutput]:
        cache, begin, inputs = empty_cache(self.body), 0, self.project_in(features)
        before = torch.zeros(len(features), 1, self.project_out.out_features, device=features.device)
        for end in ends:
            mel, stops = [], []
            for position in range(begin, end):
                step = inputs[:, position : position + 1] + self.prenet(before)
                hidden = self.body(inputs_embeds=step, past_key_values=cache, use_cache=True).last_hidden_state
                before = self.project_out(hidden)
                mel.append(before)
                stops.append(self.stop(hidden).squeeze(2))
            yield DecoderOutput(torch.cat(mel, dim=1), stop_logits=torch.cat(stops, dim=1))
            begin = end


def _time_sinusoids(time: Tensor, channels: int) -> Tensor:
    """time (B,) from 0 to 1 -> (B, channels)."""
    table = sinusoids(1001, channels, time.device)
    return table[(time * 1000).round().long()]


DECODERS = {"parallel": ParallelDecoder, "flow": FlowDecoder, "autoregressive": AutoregressiveDecoder}
