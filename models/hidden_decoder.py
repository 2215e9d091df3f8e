"""Hidden states of the language model -> mel."""

from torch import Tensor, nn

from config import AudioConfig, HiddenDecoderConfig
from models.layers.frame_decoder import FrameDecoder


class HiddenDecoder(FrameDecoder):
    """Frame states (`TokenLM.frame_states`), decoded to mel frames with temporal context, aligned by time.

    They say what the codes leave open: the model's whole guess of the frame, and what it has read so far.
    """

    def __init__(
        self, config: HiddenDecoderConfig, audio: AudioConfig, state_size: int, code_frame_rate: float, n_speakers: int,
    ):
        super().__init__(
            **config.model_dump(), n_mels=audio.n_mels, codes_per_frame=code_frame_rate / audio.frame_rate,
            centre=audio.frame_centre, n_speakers=n_speakers,
        )
        self.project_in = nn.Sequential(nn.LayerNorm(state_size), nn.Linear(state_size, config.hidden_size))

    def forward(self, states: Tensor, lengths: Tensor, speaker: Tensor, start: Tensor, n_frames: int) -> Tensor:
        """states (B, state_size, T), lengths (B,), speaker (B,) -> mel (B, n_mels, n_frames).

        `start` (B,): mel frames (a real number) between the beginning of the states and the first frame given.
        """
        return self.mel_from_features(self.features(states), lengths, speaker, start, n_frames)

    def features(self, states: Tensor) -> Tensor:
        """states (B, state_size, T) -> (B, T, feature_size), each frame by itself."""
        return self.project_in(states.transpose(1, 2))
