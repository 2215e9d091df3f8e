"""Section "train": how each stage is trained."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from config.section import Fraction, Positive, PositiveFloat, Section


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
    max_skipped: Positive = 20
    """A step whose loss or gradient is not finite is skipped; after so many in a row training stops."""
    halve_batches: bool = False
    """Where memory does not suffice for a batch, it is halved, and halved again, and the gradients of its parts are
    added up, from then on for every batch. For one process. With the loss means weighted, the step is that of the whole
    batch, but for what docs/reliability.md lists."""
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
    shard: bool = False
    """Several processes split weights, gradients and the optimizer's state between them (FSDP), for models that one GPU
    cannot train; else each has all of them."""
    alignment_start: Annotated[int, Field(ge=0)] = 0
    """Until this step: no alignment. Taught from the first step on, the head counts instead of listening."""
    text_loss_steps: Positive | None = None
    """The weight of text falls linearly to 0 over so many steps; null: constant."""

    @model_validator(mode="after")
    def check(self):
        if self.shard and self.precision == "fp16":
            raise ValueError("shard and precision fp16 do not go together: set precision to bf16, or shard to false")
        return self


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
