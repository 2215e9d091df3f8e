"""Codes of all codebooks -> mel, for a codec that has no mel decoder of its own (EnCodec)."""

from torch import Tensor, nn

from config import AudioConfig, TokenDecoderConfig
from models.layers.frame_decoder import FrameDecoder


class TokenDecoder(FrameDecoder):
    """Summed codebook embeddings, decoded to mel frames with temporal context, aligned by time."""

    def __init__(
        self, config: TokenDecoderConfig, audio: AudioConfig,
        n_codebooks: int, codebook_size: int, code_frame_rate: float, n_speakers: int,
    ):
        super().__init__(
            **config.model_dump(), n_mels=audio.n_mels, codes_per_frame=code_frame_rate / audio.frame_rate,
            centre=audio.frame_centre, n_speakers=n_speakers,
        )
        self.embeddings = nn.ModuleList(nn.Embedding(codebook_size, config.hidden_size) for _ in range(n_codebooks))
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=n_codebooks**-0.5)

    def forward(self, codes: Tensor, lengths: Tensor, speaker: Tensor, start: Tensor, n_frames: int) -> Tensor:
        """codes (B, n_codebooks, T), lengths (B,), speaker (B,) -> mel (B, n_mels, n_frames).

        `start` (B,): mel frames (a real number) between the beginning of the codes and the first frame given.
        """
        return self.mel_from_features(self.features(codes), lengths, speaker, start, n_frames)

    def features(self, codes: Tensor) -> Tensor:
        """codes (B, n_codebooks, T) -> (B, T, feature_size), each frame by itself."""
        return sum(embedding(codes[:, k]) for k, embedding in enumerate(self.embeddings))
