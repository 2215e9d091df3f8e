"""Sections "audio", "text" and "data": the recordings and what is said in them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from config.section import Count, Positive, PositiveFloat, Section

MOST_OVERLAP = 64  # every sample is in so many frames


class AudioConfig(Section):
    """The one mel definition; two stages fit together only if theirs are equal."""

    sample_rate: Annotated[int, Field(gt=0, le=768_000)] = 22050
    n_fft: Annotated[int, Field(gt=0, le=2**16)] = 1024
    win_length: Positive = 1024
    hop_length: Positive = 256
    n_mels: Count = 80
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
        if self.hop_length > self.win_length:
            raise ValueError(f"hop_length {self.hop_length} is longer than win_length {self.win_length}: what lies "
                             "between two frames would not be heard")
        if self.n_fft > MOST_OVERLAP * self.hop_length:
            raise ValueError(f"n_fft {self.n_fft} is more than {MOST_OVERLAP} times hop_length {self.hop_length}")
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
    workers: Annotated[int, Field(ge=0, le=1000)] = 2

    @model_validator(mode="after")
    def check(self):
        if self.min_seconds >= self.max_seconds:
            raise ValueError(f"min_seconds {self.min_seconds:g} must be under max_seconds {self.max_seconds:g}")
        return self
