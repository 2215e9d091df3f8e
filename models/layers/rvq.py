"""Residual vector quantisation (SoundStream, arXiv 2107.03312): each codebook refines what the ones before give."""

import torch
from torch import Tensor, nn

from models.layers.bottleneck import Bottlenecked
from processes import add_up_, main_ones_, rows_of_all, several, share


class RVQ(nn.Module):
    """`vector_quantize_pytorch.ResidualVQ` behind the interface of a bottleneck.

    Codebooks start at the k-means of the first training batch and follow moving averages (`decay`) of the vectors that
    choose them. A code chosen less than `restart_share` of even use (vectors a batch / codebook_size) is put on a
    random vector of the batch: embedding, average and count together. `quantizer_dropout`: in training, random
    numbers of codebooks, so that the first few alone are of use too (-1 among the codes of a training step).

    All state is in the state dict and all randomness is torch's. Several processes move the same codebooks by the
    vectors of all of them, as one process would that had them all.
    """

    KMEANS_ITERATIONS = 10

    def __init__(
        self, n_codebooks: int, codebook_size: int, latent_size: int, decay: float = 0.99, restart_share: float = 0.1,
        quantizer_dropout: bool = False,
    ):
        super().__init__()
        # here, as it takes more than a second that only users of RVQ should pay
        from loguru import logger
        from vector_quantize_pytorch import ResidualVQ

        logger.disable("vector_quantize_pytorch")
        self.n_codebooks, self.codebook_size, self.restart_share = n_codebooks, codebook_size, restart_share
        self.quantizer_dropout = quantizer_dropout
        self.in_channels = self.n_channels = latent_size
        self.residual = ResidualVQ(
            dim=latent_size, num_quantizers=n_codebooks, codebook_size=codebook_size, decay=decay,
            kmeans_init=True, kmeans_iters=self.KMEANS_ITERATIONS, commitment_weight=1.0, rotation_trick=False,
            threshold_ema_dead_code=restart_share > 0, quantize_dropout=quantizer_dropout, sync_codebook=False,
        )

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Bottlenecked:
        """z (B, latent_size, T) -> the sum of the chosen codes (same shape), their indices (B, n_codebooks, T), and in
        training `commitment`: mean squared distance of each residual to its code, averaged over codebooks.

        The gradient passes straight through the sum. `mask` (B, 1, T): padding moves no codebook.
        """
        B, C, T = z.shape
        if not self.training and not self._started():
            # the codebooks wait for the first training batch, which validation data must not replace
            codes = torch.zeros(B, self.n_codebooks, T, dtype=torch.long, device=z.device)
            return Bottlenecked(torch.zeros_like(z), codes, {})
        frames = None if mask is None else mask.squeeze(1).bool()  # (B, T)
        n_vectors = torch.tensor(float(B * T), device=z.device) if frames is None else frames.sum().float()
        weight, dropout_seed = 1.0, None
        if self.training and several():
            weight, dropout_seed = n_vectors / share(n_vectors), self._dropout_seed(z.device)
            self._share_codebooks()
            add_up_(n_vectors)
        self._set_restart_count(float(n_vectors))
        with torch.autocast(z.device.type, enabled=False):
            vectors = z.float().transpose(1, 2)  # (B, T, C)
            quantised, codes, losses = self.residual(
                vectors, mask=frames, rand_quantize_dropout_fixed_seed=dropout_seed
            )
            latents = vectors + (quantised - vectors).detach() if self.training else quantised
        losses = {"commitment": losses.mean() * weight} if self.training else {}
        return Bottlenecked(latents.transpose(1, 2).to(z.dtype), codes.transpose(1, 2), losses)

    def dequantise(self, codes: Tensor) -> Tensor:
        """codes (B, n_codebooks, T) -> their sum (B, latent_size, T), as `forward` gave it."""
        return self.residual.get_output_from_indices(codes.transpose(1, 2)).transpose(1, 2)

    def identity(self) -> tuple[tuple, list[Tensor]]:
        """Settings and weights that decide which code a vector gets."""
        return ("rvq", self.codebook_size, self.n_codebooks), [self.residual.codebooks]

    def _started(self) -> bool:
        return all(bool(layer._codebook.initted) for layer in self.residual.layers)

    def _share_codebooks(self) -> None:
        # the library's own way to share draws other vectors than one process would
        for layer in self.residual.layers:
            codebook = layer._codebook
            codebook.all_reduce_fn = codebook.kmeans_all_reduce_fn = add_up_
            codebook.sample_fn = codebook.replace_sample_fn = sample_of_all

    def _dropout_seed(self, device: torch.device) -> int | None:
        """As the library draws it, but the same in all processes, which must move the same codebooks."""
        return int(main_ones_(torch.randint(0, 10_000, (), device=device))) if self.quantizer_dropout else None

    def _set_restart_count(self, n_vectors: float) -> None:
        # the library knows absolute counts only, which would mean another thing for every batch size
        for layer in self.residual.layers:
            count = self.restart_share * n_vectors / self.codebook_size
            layer._codebook.threshold_ema_dead_code = count
            layer._codebook.reset_cluster_size = 2 * count  # time to be chosen before the next restart


def sample_of_all(vectors: Tensor, count: int) -> Tensor:
    """`count` vectors (1, count, C), drawn by the main process from the vectors (1, n, C) of all processes."""
    rows = rows_of_all(vectors[0])
    enough = len(rows) >= count
    chosen = torch.randperm(len(rows), device=rows.device)[:count] if enough else torch.randint(
        0, len(rows), (count,), device=rows.device)
    return rows[main_ones_(chosen)].unsqueeze(0)
