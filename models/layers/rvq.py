"""Residual vector quantisation (SoundStream, arXiv 2107.03312): each codebook refines what the ones before give."""

import torch
from torch import Tensor, nn

from models.layers.bottleneck import Bottlenecked


class RVQ(nn.Module):
    """`vector_quantize_pytorch.ResidualVQ` behind the interface of a bottleneck.

    Codebooks start at the k-means of the first training batch and follow moving averages (`decay`) of the vectors that
    choose them. A code chosen less than `restart_share` of even use (vectors a batch / codebook_size) is put on a
    random vector of the batch: embedding, average and count together. `quantizer_dropout`: in training, random
    numbers of codebooks, so that the first few alone are of use too (-1 among the codes of a training step).

    All state is in the state dict and all randomness is torch's. With several processes, rank 0's codebooks are
    everyone's (DistributedDataParallel broadcasts buffers).
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
        self._set_restart_count(B * T if frames is None else int(frames.sum()))
        with torch.autocast(z.device.type, enabled=False):
            vectors = z.float().transpose(1, 2)  # (B, T, C)
            quantised, codes, losses = self.residual(vectors, mask=frames)
            latents = vectors + (quantised - vectors).detach() if self.training else quantised
        losses = {"commitment": losses.mean()} if self.training else {}
        return Bottlenecked(latents.transpose(1, 2).to(z.dtype), codes.transpose(1, 2), losses)

    def dequantise(self, codes: Tensor) -> Tensor:
        """codes (B, n_codebooks, T) -> their sum (B, latent_size, T), as `forward` gave it."""
        return self.residual.get_output_from_indices(codes.transpose(1, 2)).transpose(1, 2)

    def identity(self) -> tuple[tuple, list[Tensor]]:
        """Settings and weights that decide which code a vector gets."""
        return ("rvq", self.codebook_size, self.n_codebooks), [self.residual.codebooks]

    def _started(self) -> bool:
        return all(bool(layer._codebook.initted) for layer in self.residual.layers)

    def _set_restart_count(self, n_vectors: int) -> None:
        # the library knows absolute counts only, which would mean another thing for every batch size
        for layer in self.residual.layers:
            count = self.restart_share * n_vectors / self.codebook_size
            layer._codebook.threshold_ema_dead_code = count
            layer._codebook.reset_cluster_size = 2 * count  # time to be chosen before the next restart
