"""JSON configs as typed, frozen sections: every unknown or wrong key is reported at once, with its path."""

import difflib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError(f"{size} is even; a kernel needs a middle")
    return size


def _check_lookahead(lookahead: int | None, n_convolutions: int) -> None:
    most = 3 * n_convolutions
    if (lookahead or 0) > most:
        raise ValueError(f"lookahead {lookahead}: {n_convolutions} convolutions, 3 frames each, hear at most {most}; "
                         "take no more, or null for all of them")


Odd = Annotated[int, Field(gt=0), AfterValidator(_odd)]


class Section(BaseModel):
    """A part of the config: immutable, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AudioConfig(Section):
    """The one mel definition; two stages fit together only if theirs are equal."""

    sample_rate: Positive = 22050
    n_fft: Positive = 1024
    win_length: Positive = 1024
    hop_length: Positive = 256
    n_mels: Positive = 80
    f_min: Annotated[float, Field(ge=0)] = 0.0
    f_max: PositiveFloat | None = None
    """Upper edge of the highest mel band in Hz; null is half the sample rate."""
    mel_scale: Literal["slaney", "htk"] = "slaney"
    mel_norm: Literal["slaney"] | None = "slaney"
    padding: Literal["same", "center"] = "same"
    """`same`: samples = frames * hop_length (HiFi-GAN); `center`: one frame more (librosa, Vocos)."""
    floor: PositiveFloat = 1e-5
    """Mel magnitudes are clamped here before the natural logarithm."""

    @model_validator(mode="after")
    def check(self):
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length {self.win_length} is longer than n_fft {self.n_fft}")
        if (self.n_fft - self.hop_length) % 2:
            raise ValueError("n_fft - hop_length must be even")
        if not self.f_min < (self.f_max or self.sample_rate / 2) <= self.sample_rate / 2:
            highest = self.f_max or self.sample_rate / 2
            raise ValueError(f"f_min {self.f_min:g} must be under f_max {highest:g}, which half the sample rate bounds")
        return self

    @property
    def frame_rate(self) -> float:
        """Mel frames a second."""
        return self.sample_rate / self.hop_length

    @property
    def frame_centre(self) -> float:
        """Where a mel frame is centred, in frames from its beginning: half a hop in, or on its edge."""
        return 0.5 if self.padding == "same" else 0.0


class TextConfig(Section):
    """How text becomes symbols."""

    frontend: Literal["ipa", "bytes"] = "ipa"
    lexicon: str | None = None
    """File of `word<TAB>ipa` lines that override espeak-ng."""
    english: Literal["espeak", "misaki"] = "espeak"
    """Who speaks en-us and en-gb; `misaki` needs requirements-misaki.txt."""


class DataConfig(Section):
    """Where the clips are, and which of them are used."""

    training_filelist: str
    validation_filelist: str
    validation_text: str | None = None
    """The filelist with text that preprocess_ipa.py made validation_filelist from, for train.<stage>.evaluate."""
    codes: str = "data/codes"
    """Folder for the cached codes of both filelists."""
    codes_storage: Literal["arrow", "parquet"] = "arrow"
    """How preprocess_codes.py stores them: one table that is mapped into memory, or shards that train_llm.py streams,
    so that they need not fit on one disk."""
    shard_clips: Positive = 4096
    """Clips of a Parquet shard: one is read at once, and there should be many for every process."""
    code_shards: list[str] | None = None
    """Shards that train_llm.py streams: files, folders, globs, or URLs of these that fsspec reads; null: those in
    <codes>/training if codes_storage is parquet."""
    buffer_shards: Positive = 2
    """Shards that a process shuffles and packs together."""
    durations: str = "data/durations"
    """Folder for the durations of both filelists that align.py writes."""
    mels: str = "data/mels"
    """Folder for the mels of both filelists that preprocess_mels.py writes."""
    alignments: str = "own"
    """`own`: durations of our own aligner, else a folder of TextGrids as the Montreal Forced Aligner writes them."""
    min_seconds: PositiveFloat = 0.4
    max_seconds: PositiveFloat = 12.0
    workers: Annotated[int, Field(ge=0)] = 2

    @model_validator(mode="after")
    def check(self):
        if self.min_seconds >= self.max_seconds:
            raise ValueError(f"min_seconds {self.min_seconds:g} must be under max_seconds {self.max_seconds:g}")
        return self


class AlignerConfig(Section):
    """The network that finds where each symbol of a text is in a recording."""

    hidden_size: Positive = 128
    n_layers: Positive = 3
    kernel_size: Odd = 5
    """Frames that a layer sees; all layers together should see little more than a syllable."""
    prior_scale: Annotated[float, Field(ge=0, le=1)] = 0.7
    """How far a symbol's frequency is taken out of its score: 0 not at all, 1 wholly."""


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
    levels: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] = [8, 5, 5, 5]
    """Levels of each dimension of one codebook; their product is its size."""
    n_codebooks: Positive = 4


class RVQConfig(Section):
    """Residual vector quantisation (SoundStream, arXiv 2107.03312): each codebook refines the ones before."""

    kind: Literal["rvq"] = "rvq"
    n_codebooks: Positive = 8
    codebook_size: Annotated[int, Field(ge=2)] = 1024
    latent_size: Positive = 128
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
    latent_size: Positive = 64


BottleneckConfig = FSQConfig | RVQConfig | GaussianConfig


class MelCodecConfig(Section):
    """Our own codec: mel frames -> ConvNeXt -> bottleneck -> ConvNeXt -> mel frames."""

    kind: Literal["mel"] = "mel"
    stride: Annotated[int, Field(ge=1, le=8)] = 4
    """Mel frames per code frame."""
    samples_per_code: Positive | None = None
    """Samples that a code frame is meant to stand for, checked to be stride x audio.hop_length; null: not checked."""
    bottleneck: Annotated[BottleneckConfig, Field(discriminator="kind")] = FSQConfig()
    hidden_size: Positive = 384
    encoder_layers: Positive = 6
    decoder_layers: Positive = 8
    lookahead: Annotated[int, Field(ge=0)] | None = None
    """Code frames that the decoder hears ahead, all layers together, and thus how late a stream is first heard; null: 3
    a layer."""
    ctc_upsample: Positive = 2
    """Symbol predictions a code frame, where train.codec.loss_weights has ctc: they must outnumber the symbols."""

    @model_validator(mode="after")
    def check(self):
        _check_lookahead(self.lookahead, self.decoder_layers)
        return self


Codec = Annotated[EncodecConfig | MelCodecConfig, Field(discriminator="kind")]


class TokenLMConfig(Section):
    """The language model from phonemes to codes."""

    backbone: Literal["gpt2", "qwen3", "llama"] = "gpt2"
    pretrained: str | None = None
    """Folder of a model of this kind whose transformer weights are all kept; its sizes must equal the ones below."""
    hidden_size: Positive = 768
    n_layers: Positive = 12
    n_heads: Positive = 12
    n_kv_heads: Positive | None = None
    """Heads of keys and values, each shared by n_heads / n_kv_heads queries; null: n_heads. Not for gpt2."""
    head_size: Annotated[int, Field(gt=0, multiple_of=2)] | None = None
    """Null: hidden_size / n_heads. Not for gpt2."""
    intermediate_size: Positive | None = None
    """Width inside the feed-forward part; null: 4 x hidden_size for gpt2, 3 x for the gated ones of the others."""
    rope_theta: PositiveFloat | None = None
    """Base of the rotary positions; null: 10,000 (a pretrained Qwen3 has 1,000,000). Not for gpt2."""
    max_positions: Positive = 1024
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

    hidden_size: Positive = 512
    n_layers: Positive = 8
    kernel_size: Odd = 7


class HiddenDecoderConfig(TokenDecoderConfig):
    """The language model's hidden states -> mel."""


class MultibandISTFTConfig(Section):
    """iSTFTNet on sub-bands (arXiv 2203.02395, 2210.15975)."""

    kind: Literal["multiband_istft"] = "multiband_istft"
    hidden_size: Positive = 512
    upsample_rates: list[Positive] = [4, 4]
    resblock_kernel_sizes: list[Odd] = [3, 7, 11]
    resblock_dilations: list[Positive] = [1, 3, 5]
    n_bands: Positive = 4
    n_fft: Positive = 16
    hop_length: Positive = 4
    synthesis: Literal["pqmf", "learned"] = "learned"
    """Fixed PQMF synthesis, or filters that start there and are trained."""


class BackboneConfig(Section):
    """ConvNeXt at the mel frame rate."""

    hidden_size: Positive = 512
    intermediate_size: Positive = 1536
    n_layers: Positive = 8
    lookahead: Annotated[int, Field(ge=0)] | None = None
    """Mel frames that it hears ahead, all layers and the one before them together, and thus how late a stream is first
    heard; null: 3 a layer."""

    @model_validator(mode="after")
    def check(self):
        _check_lookahead(self.lookahead, 1 + self.n_layers)
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
    hidden_size: Positive = 384
    n_layers: Positive = 8
    kernel_size: Odd = 7


class FlowDecoderConfig(Section):
    """Conditional flow matching (Matcha-TTS, arXiv 2309.03199): noise becomes mel in a few steps."""

    kind: Literal["flow"] = "flow"
    hidden_size: Positive = 384
    n_layers: Positive = 8
    kernel_size: Odd = 7
    n_steps: Positive = 4
    """Euler steps of synthesis."""


class AutoregressiveDecoderConfig(Section):
    """One position after the other, by a transformer with masked attention and a stop token."""

    kind: Literal["autoregressive"] = "autoregressive"
    hidden_size: Positive = 512
    n_layers: Positive = 6
    n_heads: Positive = 8
    intermediate_size: Positive = 2048
    max_positions: Positive = 2048
    prenet_dropout: Fraction = 0.5
    """Of the mel that is fed back, in training alone, so that the decoder listens to the text."""


class AlignedConfig(Section):
    """Phonemes with explicit durations -> mel: encoder, predictors, length regulator, mel decoder."""

    hidden_size: Positive = 512
    n_layers: Positive = 6
    n_heads: Positive = 8
    feed_forward_size: Positive = 2048
    dropout: Fraction = 0.1
    predictor_size: Positive = 256
    """Width of the predictors of duration, pitch and energy."""
    frames_per_position: Positive = 2
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

    periods: Annotated[list[Positive], Field(min_length=1)] = [2, 3, 5, 7, 11]
    period_channels: Annotated[list[Positive], Field(min_length=1)] = [32, 128, 512, 1024, 1024]
    fft_sizes: list[Positive] = [1024, 2048, 512]
    """Window and FFT of each spectrogram; hops are a quarter of it. Empty: multi-period alone."""
    resolution_channels: Positive = 32
    mel_channels: Annotated[list[Positive], Field(min_length=1)] = [32, 64, 128]
    """Of the patch discriminator of mels, which the codec stage has with an adversarial loss."""


class StageConfig(Section):
    """How one stage is trained."""

    max_steps: Positive = 200_000
    batch_size: Positive = 2
    gradient_accumulation: Positive = 1
    learning_rate: PositiveFloat = 2e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["constant", "exponential", "cosine", "wsd"] = "exponential"
    """After a linear warm-up: exponential = times gamma after every epoch (the source); cosine to a tenth over
    max_steps; wsd = constant, then linear to zero over the last fifth (arXiv 2404.06395)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.9999
    grad_clip: PositiveFloat = 1.0
    ema_decay: Fraction = 0.0
    """Exponential moving average of the weights, used for validation and synthesis; 0 is off."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    seed: int = 1234
    log_interval: Positive = 10
    eval_interval: Positive = 1000
    save_interval: Positive = 1000
    """Steps between checkpoints."""
    save_epochs: Positive | None = None
    """Epochs between checkpoints, instead of save_interval."""
    keep_last: Positive = 3
    wandb: bool = False


class CodecStage(StageConfig):
    """train.codec"""

    segment_frames: Positive = 256
    """Mel frames of each clip; with ctc, whole clips instead."""
    kl_annealing: Fraction = 0.2
    """The weight of kl grows from 0 to its own over this part of max_steps."""
    adversarial_start: Annotated[int, Field(ge=0)] = 0
    """Until this step: no adversarial and feature_matching, where these have weights."""
    loss_weights: dict[str, Annotated[float, Field(ge=0)]] = {
        "mel": 1.0, "mel_delta": 0.5, "commitment": 0.25, "kl": 0.001,
    }
    """commitment is for rvq and kl for gaussian alone. Off unless they are given a weight: ctc (the IPA of the
    filelists, which keeps words at a low rate), adversarial and feature_matching (both or none)."""


class SpokenStage(StageConfig):
    """A stage of which one can hear how it speaks."""

    evaluate: Annotated[int, Field(ge=0)] = 0
    """Held-out sentences that are spoken, or copied, and measured as evaluate.py does at every eval_interval;
    G_best.pth is then chosen by them (character error rate first, then DNSMOS). 0: none, it is chosen by the loss.
    Needs requirements-eval.txt and data.validation_text, and takes some seconds of a CPU a sentence."""
    recognizer: str | None = None
    """Folder of the Whisper or CTC model that hears them; null: PocketSphinx, for English alone."""


class LLMStage(SpokenStage):
    """train.llm"""

    packing: bool = False
    """Several clips in one row of up to llm.max_positions, none of which sees another; batch_size counts rows."""
    curriculum_steps: Annotated[int, Field(ge=0)] = 0
    """Over so many steps the longest clips come in: first the shortest tenth of all clips, then two tenths, ..."""
    voice_probability: Fraction = 0.0
    """How often a clip is given the last seconds of another one of its speaker, and half of these times no speaker, so
    that a reference recording can be the voice, also of one that is not known, without what is said in it."""
    loss_weights: dict[str, Annotated[float, Field(ge=0)]] = {"llm": 1.0}
    """With text: also predicts each next symbol of the text, which is not computed while its weight is 0. With
    alignment: a head of the middle layer is taught to look at the symbol that is being spoken (durations of align.py),
    which a few hours of speech do not teach it by themselves."""
    alignment_start: Annotated[int, Field(ge=0)] = 0
    """Until this step: no alignment. Taught from the first step on, the head counts instead of listening."""
    text_loss_steps: Positive | None = None
    """The weight of text falls linearly to 0 over so many steps; null: constant."""


class VocoderStage(SpokenStage):
    """train.vocoder"""

    grad_clip: PositiveFloat = 1000.0
    """Higher than elsewhere: mel is weighted 45."""
    conditioning: Literal["mel", "codes", "hidden"] = "mel"
    """`mel`: the recording's own mel. `codes`: decoder and vocoder train together on what synthesis will give.
    `hidden`: so they do on the language model's states instead of its codes."""
    joint: bool = False
    """With hidden: the language model trains, too, on its own loss (llm) and those of the waves together."""
    segment_frames: Positive = 32
    adversarial_start: Annotated[int, Field(ge=0)] = 0
    """Until this step: reconstruction losses alone, which is many times cheaper on a CPU."""
    predicted_start: Annotated[int, Field(ge=0)] | None = None
    """With mel: from this step on the vocoder hears the mels that the aligned-duration model makes of the clips
    (preprocess_mels.py), and learns to make up for what they lack; null: never."""
    adversarial_frames: Positive | None = None
    """From then on waves are made and judged of so many mel frames alone, anywhere in the segment; null: of all."""
    loss_weights: dict[str, float] = {
        "mel": 45.0, "adversarial": 1.0, "feature_matching": 2.0, "stft": 1.0, "subband_stft": 1.0, "decoder_mel": 45.0,
        "llm": 1.0, "f0": 1.0,
    }
    """Losses that the system does not have need no weight: llm without joint, decoder_mel with mel, ..."""

    @model_validator(mode="after")
    def check(self):
        if self.joint and self.conditioning != "hidden":
            raise ValueError(f'joint trains the language model through its hidden states: set conditioning to "hidden" '
                             f'(it is "{self.conditioning}"), or joint to false')
        if self.predicted_start is not None and self.conditioning != "mel":
            raise ValueError(f'predicted_start replaces the recordings\' mel: set conditioning to "mel" (it is '
                             f'"{self.conditioning}"), or predicted_start to null')
        if (self.adversarial_frames or 0) > self.segment_frames:
            raise ValueError(f"adversarial_frames {self.adversarial_frames} are part of segment_frames "
                             f"{self.segment_frames}, of which there must be as many")
        return self


class AlignedStage(SpokenStage):
    """train.aligned"""

    loss_weights: dict[str, Annotated[float, Field(ge=0)]] = {
        "mel": 1.0, "flow": 1.0, "stop": 0.1, "duration": 0.2, "pitch": 0.1, "energy": 0.1,
    }
    """flow is for the flow decoder and stop for the autoregressive one alone."""


class AlignerStage(StageConfig):
    """train.aligner"""

    max_steps: Positive = 900
    batch_size: Positive = 16
    learning_rate: PositiveFloat = 3e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    schedule: Literal["constant", "exponential", "cosine", "wsd"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 30
    eval_interval: Positive = 200
    save_interval: Positive = 200
    diagonal_steps: Annotated[int, Field(ge=0)] = 450
    """So many first steps have a prior about the diagonal and keep silence out of loud frames: without them one symbol
    takes nearly all frames."""
    unknown_speaker: Fraction = 0.1
    """How often a clip's speaker is hidden, so that recordings of others can be aligned."""


class TrainConfig(Section):
    """One sub-section per stage."""

    aligner: AlignerStage = AlignerStage()
    codec: CodecStage = CodecStage()
    llm: LLMStage = LLMStage()
    vocoder: VocoderStage = VocoderStage()
    aligned: AlignedStage = AlignedStage()


class Config(Section):
    """A whole system."""

    audio: AudioConfig = AudioConfig()
    text: TextConfig = TextConfig()
    data: DataConfig
    aligner: AlignerConfig = AlignerConfig()
    codec: Codec = EncodecConfig()
    llm: TokenLMConfig = TokenLMConfig()
    token_decoder: TokenDecoderConfig = TokenDecoderConfig()
    hidden_decoder: HiddenDecoderConfig = HiddenDecoderConfig()
    aligned: AlignedConfig = AlignedConfig()
    vocoder: Vocoder = MultibandISTFTConfig()
    discriminators: DiscriminatorConfig = DiscriminatorConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def check(self):
        v = self.vocoder
        if isinstance(v, MultibandISTFTConfig):
            samples = math.prod(v.upsample_rates) * v.hop_length * v.n_bands
            if samples != self.audio.hop_length:
                raise ValueError(
                    f"vocoder: upsample_rates {v.upsample_rates} x hop_length {v.hop_length} x n_bands {v.n_bands} "
                    f"give {samples} samples a frame, audio.hop_length is {self.audio.hop_length}: make them equal"
                )
        if isinstance(self.codec, MelCodecConfig):
            self._check_codec(self.codec)
        for name, stage in self.train:
            if getattr(stage, "evaluate", 0) and self.data.validation_text is None:
                raise ValueError(f"train.{name}.evaluate: what is said must be known, set data.validation_text to the "
                                 "filelist with text that data.validation_filelist was made from")
        shortest = max([2048, self.audio.n_fft, *self.discriminators.fft_sizes]) // 2 + 1
        for name in ("segment_frames", "adversarial_frames"):
            frames = getattr(self.train.vocoder, name)
            samples = None if frames is None else frames * self.audio.hop_length
            if samples is not None and samples < shortest:
                raise ValueError(
                    f"train.vocoder.{name}: {samples} samples are too short for the STFTs of losses and "
                    f"discriminators, which need {shortest}: at least {-(-shortest // self.audio.hop_length)} frames"
                )
        return self

    def _check_codec(self, codec: MelCodecConfig) -> None:
        samples, wanted = codec.stride * self.audio.hop_length, codec.samples_per_code
        if wanted not in (None, samples):
            raise ValueError(
                f"codec: stride {codec.stride} x audio.hop_length {self.audio.hop_length} are {samples} samples a "
                f"code, codec.samples_per_code is {wanted}: make them equal"
            )
        if self.train.codec.segment_frames % codec.stride:
            raise ValueError(
                f"train.codec.segment_frames {self.train.codec.segment_frames} must be a multiple of codec.stride "
                f"{codec.stride}"
            )
        weights = self.train.codec.loss_weights
        if bool(weights.get("adversarial")) != bool(weights.get("feature_matching")):
            raise ValueError("train.codec.loss_weights: give adversarial and feature_matching weights, both or none")


def load_config(path: str | Path) -> Config:
    """The config in a JSON file. ValueError names the file and every wrong key with its path and the mend."""
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: no such config file ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    return parse_config(values, str(path))


def parse_config(values: Any, source: str) -> Config:
    """The config from plain values (a JSON file's, or a checkpoint's); `source` names them in errors."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise ValueError("\n".join([f"{source}: {len(lines)} problem(s) in the config", *lines])) from error


def _explain(problem: dict) -> str:
    # a discriminated union puts its tag ("encodec") into the path, which the user's file does not have
    tags = {1: {"encodec", "mel", "multiband_istft", "vocos", "harmonic_vocos"},
            2: {"parallel", "flow", "autoregressive"}, 3: {"fsq", "rvq", "gaussian"}}
    keys = [key for i, key in enumerate(problem["loc"]) if key not in tags.get(i, ())]
    where = ".".join(map(str, keys)) or "config"
    if problem["type"] != "extra_forbidden":
        return f"  {where}: {problem['msg'].removeprefix('Value error, ')}"
    known = {name for section in _sections(Section) for name in section.model_fields}
    close = difflib.get_close_matches(str(keys[-1]), known, n=1)
    if close == [keys[-1]]:
        return f"  {where}: not a key of this section, but of another"
    return f"  {where}: unknown key" + (f", did you mean '{close[0]}'?" if close else "")


def _sections(base: type[Section]) -> list[type[Section]]:
    return [s for sub in base.__subclasses__() for s in [sub, *_sections(sub)]]
