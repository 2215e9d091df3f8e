"""Sections of the networks other than the codec."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from config.section import Count, Fraction, Odd, PositiveFloat, Section, Size, check_lookahead


class AlignerConfig(Section):
    """The network that finds where each symbol of a text is in a recording."""

    hidden_size: Size = 128
    n_layers: Count = 3
    kernel_size: Odd = 5
    """Frames that a layer sees; all layers together should see little more than a syllable."""
    prior_scale: Annotated[float, Field(ge=0, le=1)] = 0.7
    """How far a symbol's frequency is taken out of its score: 0 not at all, 1 wholly."""


class TokenLMConfig(Section):
    """The language model from phonemes to codes."""

    backbone: Literal["gpt2", "qwen3", "llama"] = "gpt2"
    pretrained: str | None = None
    """Folder of a model of this kind whose transformer weights are all kept; its sizes must equal the ones below."""
    hidden_size: Size = 768
    n_layers: Count = 12
    n_heads: Count = 12
    n_kv_heads: Size | None = None
    """Heads of keys and values, each shared by n_heads / n_kv_heads queries; null: n_heads. Not for gpt2."""
    head_size: Annotated[int, Field(gt=0, multiple_of=2)] | None = None
    """Null: hidden_size / n_heads. Not for gpt2."""
    intermediate_size: Size | None = None
    """Width inside the feed-forward part; null: 4 x hidden_size for gpt2, 3 x for the gated ones of the others."""
    rope_theta: PositiveFloat | None = None
    """Base of the rotary positions; null: 10,000 (a pretrained Qwen3 has 1,000,000). Not for gpt2."""
    max_positions: Size = 1024
    dropout: Fraction = 0.1
    """Of embeddings, attention and residuals for gpt2, of attention alone for the others."""
    gradient_checkpointing: bool = True

    @model_validator(mode="after")
    def check(self):
        if self.head_size is None and self.hidden_size % self.n_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of n_heads {self.n_heads}")
        if self.backbone == "gpt2":
            for name in ("n_kv_heads", "head_size", "rope_theta"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}: gpt2 has no such setting; remove it, or set backbone to qwen3 or llama")
        elif self.head_size is None and self.hidden_size // self.n_heads % 2:
            raise ValueError(f"hidden_size {self.hidden_size} / n_heads {self.n_heads} is odd; rotary positions need "
                             "an even head size")
        if self.n_heads % (self.n_kv_heads or self.n_heads):
            raise ValueError(f"n_heads {self.n_heads} is no multiple of n_kv_heads {self.n_kv_heads}")
        return self


class TokenDecoderConfig(Section):
    """Codes of all codebooks -> mel (for a codec that has no mel decoder of its own)."""

    hidden_size: Size = 512
    n_layers: Count = 8
    kernel_size: Odd = 7


class HiddenDecoderConfig(TokenDecoderConfig):
    """The language model's hidden states -> mel."""


class MultibandISTFTConfig(Section):
    """iSTFTNet on sub-bands (arXiv 2203.02395, 2210.15975)."""

    kind: Literal["multiband_istft"] = "multiband_istft"
    hidden_size: Size = 512
    upsample_rates: Annotated[list[Count], Field(max_length=16)] = [4, 4]
    resblock_kernel_sizes: list[Odd] = [3, 7, 11]
    resblock_dilations: list[Count] = [1, 3, 5]
    n_bands: Count = 4
    n_fft: Size = 16
    hop_length: Size = 4
    synthesis: Literal["pqmf", "learned"] = "learned"
    """Fixed PQMF synthesis, or filters that start there and are trained."""

    @model_validator(mode="after")
    def check(self):
        least = 2 ** len(self.upsample_rates)
        if self.hidden_size < least:
            raise ValueError(f"hidden_size {self.hidden_size}: each of {len(self.upsample_rates)} upsample_rates "
                             f"halves it, so that it must be at least {least}")
        return self


class BackboneConfig(Section):
    """ConvNeXt at the mel frame rate."""

    hidden_size: Size = 512
    intermediate_size: Size = 1536
    n_layers: Count = 8
    lookahead: Annotated[int, Field(ge=0)] | None = None
    """Mel frames that it hears ahead, all layers and the one before them together, and thus how late a stream is first
    heard; null: 3 a layer."""

    @model_validator(mode="after")
    def check(self):
        check_lookahead(self.lookahead, 1 + self.n_layers)
        return self


class VocosConfig(BackboneConfig):
    """Vocos (arXiv 2306.00814): ConvNeXt at the mel frame rate, then one iSTFT."""

    kind: Literal["vocos"] = "vocos"
    pretrained: str | None = None
    """File of published weights (vocos-mel-24khz's pytorch_model.bin) that training starts from."""

    @model_validator(mode="after")
    def check_pretrained(self):
        if self.pretrained and self.lookahead is not None:
            raise ValueError(f"lookahead {self.lookahead}: pretrained weights hear 3 frames a layer ahead; set "
                             "lookahead or pretrained to null")
        return self


class HarmonicVocosConfig(BackboneConfig):
    """Vocos' backbone as filters of pulses at the f0 and of noise: in tune after minutes of training."""

    kind: Literal["harmonic_vocos"] = "harmonic_vocos"


Vocoder = Annotated[MultibandISTFTConfig | VocosConfig | HarmonicVocosConfig, Field(discriminator="kind")]


class ParallelDecoderConfig(Section):
    """All mel frames at once, by ConvNeXt blocks (FastSpeech 2's way, arXiv 2006.04558)."""

    kind: Literal["parallel"] = "parallel"
    hidden_size: Size = 384
    n_layers: Count = 8
    kernel_size: Odd = 7


class FlowDecoderConfig(Section):
    """Conditional flow matching (Matcha-TTS, arXiv 2309.03199): noise becomes mel in a few steps."""

    kind: Literal["flow"] = "flow"
    hidden_size: Size = 384
    n_layers: Count = 8
    kernel_size: Odd = 7
    n_steps: Count = 4
    """Euler steps of synthesis."""


class AutoregressiveDecoderConfig(Section):
    """One position after the other, by a transformer with masked attention and a stop token."""

    kind: Literal["autoregressive"] = "autoregressive"
    hidden_size: Size = 512
    n_layers: Count = 6
    n_heads: Count = 8
    intermediate_size: Size = 2048
    max_positions: Size = 2048
    prenet_dropout: Fraction = 0.5
    """Of the mel that is fed back, in training alone, so that the decoder listens to the text."""


class AlignedConfig(Section):
    """Phonemes with explicit durations -> mel: encoder, predictors, length regulator, mel decoder."""

    hidden_size: Size = 512
    n_layers: Count = 6
    n_heads: Count = 8
    feed_forward_size: Size = 2048
    dropout: Fraction = 0.1
    predictor_size: Size = 256
    """Width of the predictors of duration, pitch and energy."""
    frames_per_position: Count = 2
    """Mel frames that the decoder makes together: its cost falls by this."""
    decoder: Annotated[
        ParallelDecoderConfig | FlowDecoderConfig | AutoregressiveDecoderConfig, Field(discriminator="kind")
    ] = FlowDecoderConfig()
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def check(self):
        for section in (self, self.decoder):
            heads = getattr(section, "n_heads", 1)
            if section.hidden_size % (2 * heads):
                raise ValueError(f"hidden_size {section.hidden_size} is no multiple of 2 x n_heads {heads}")
        return self


class DiscriminatorConfig(Section):
    """Multi-period (HiFi-GAN) and multi-resolution spectrogram (UnivNet) discriminators."""

    periods: Annotated[list[Size], Field(min_length=1)] = [2, 3, 5, 7, 11]
    period_channels: Annotated[list[Size], Field(min_length=1)] = [32, 128, 512, 1024, 1024]
    fft_sizes: Annotated[list[Annotated[int, Field(ge=16, le=2**16)]], Field(max_length=16)] = [1024, 2048, 512]
    """Window and FFT of each spectrogram; hops are a quarter of it. Empty: multi-period alone."""
    resolution_channels: Size = 32
    mel_channels: Annotated[list[Size], Field(min_length=1)] = [32, 64, 128]
    """Of the patch discriminator of mels, which the codec stage has with an adversarial loss."""
