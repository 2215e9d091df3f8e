"""Section "codec": EnCodec, or our own with one of several bottlenecks."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from config.section import Count, Fraction, Section, Size, check_lookahead


class EncodecConfig(Section):
    """Meta's pretrained codec, 75 frames a second of 1024-entry codebooks (arXiv 2210.13438)."""

    kind: Literal["encodec"] = "encodec"
    path: str = "encodec_pretrained"
    """Folder in hub format, or holding the original encodec_24khz-d7cc33bc.th."""
    bandwidth: Literal[1.5, 3.0, 6.0, 12.0, 24.0] = 6.0
    """kbit/s: 2, 4, 8, 16 or 32 codebooks."""

    @property
    def frame_rate(self) -> float:
        """Code frames a second."""
        return 75.0

    @property
    def codebook_size(self) -> int:
        """Codes of each codebook: 10 bits."""
        return 1024

    @property
    def n_codebooks(self) -> int:
        return round(self.bandwidth * 1000 / (self.frame_rate * 10))


class FSQConfig(Section):
    """Finite scalar quantisation (arXiv 2309.15505), several codebooks side by side."""

    kind: Literal["fsq"] = "fsq"
    levels: Annotated[list[Annotated[int, Field(ge=2, le=1000)]], Field(min_length=1, max_length=16)] = [8, 5, 5, 5]
    """Levels of each dimension of one codebook; their product is its size."""
    n_codebooks: Count = 4


class RVQConfig(Section):
    """Residual vector quantisation (SoundStream, arXiv 2107.03312): each codebook refines the ones before."""

    kind: Literal["rvq"] = "rvq"
    n_codebooks: Count = 8
    codebook_size: Annotated[int, Field(ge=2, le=2**17)] = 1024
    latent_size: Size = 128
    """Dimensions of a code's vector."""
    decay: Fraction = 0.99
    """Of the moving averages that the codebooks follow."""
    restart_share: Fraction = 0.1
    """A code chosen less than this share of even use is put on a vector of the batch; 0: never."""
    quantizer_dropout: bool = False
    """In training, random numbers of codebooks, so that the first few alone are of use too."""


class GaussianConfig(Section):
    """Continuous latents with a KL to the standard normal; no codes, so not for a language model over tokens."""

    kind: Literal["gaussian"] = "gaussian"
    latent_size: Size = 64


BottleneckConfig = FSQConfig | RVQConfig | GaussianConfig


class MelCodecConfig(Section):
    """Our own codec: mel frames -> ConvNeXt -> bottleneck -> ConvNeXt -> mel frames."""

    kind: Literal["mel"] = "mel"
    stride: Annotated[int, Field(ge=1, le=8)] = 4
    """Mel frames per code frame."""
    samples_per_code: Size | None = None
    """Samples that a code frame is meant to stand for, checked to be stride x audio.hop_length; null: not checked."""
    bottleneck: Annotated[BottleneckConfig, Field(discriminator="kind")] = FSQConfig()
    hidden_size: Size = 384
    encoder_layers: Count = 6
    decoder_layers: Count = 8
    lookahead: Annotated[int, Field(ge=0)] | None = None
    """Code frames that the decoder hears ahead, all layers together, and thus how late a stream is first heard; null: 3
    a layer."""
    ctc_upsample: Count = 2
    """Symbol predictions a code frame, where train.codec.loss_weights has ctc: they must outnumber the symbols."""

    @model_validator(mode="after")
    def check(self):
        check_lookahead(self.lookahead, self.decoder_layers)
        return self


Codec = Annotated[EncodecConfig | MelCodecConfig, Field(discriminator="kind")]
