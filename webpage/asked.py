"""What the page asks of the models and is told about them, without the packages that speaking needs."""

from dataclasses import dataclass, field

BEST = "best"


@dataclass(frozen=True)
class Control:
    """What a caller may change, as a slider."""

    minimum: float
    maximum: float
    step: float
    value: float


@dataclass(frozen=True)
class Abilities:
    """What a model can be asked for."""

    languages: list[str]
    speakers: dict[str, str]
    """Name -> language."""
    controls: dict[str, Control]
    reference: bool
    seed: bool

    def speakers_of(self, language: str) -> list[str]:
        """All of them, those who speak the language first."""
        return sorted(self.speakers, key=lambda name: self.speakers[name] != language)


@dataclass(frozen=True)
class Snapshot:
    """A model, or what it was when one of its stages was at an earlier step."""

    model: str
    stage: str = ""
    step: str = ""
    """A number or BEST."""

    @property
    def label(self) -> str:
        return f"{self.model}: {self.stage} {self.step}" if self.stage else self.model


@dataclass(frozen=True)
class Request:
    """What is to be spoken, and how."""

    snapshot: Snapshot
    text: str
    language: str
    speaker: str = ""
    """Empty: one who speaks the language, or whoever is nearest to the reference."""
    controls: dict[str, float] = field(default_factory=dict)
    seed: int | None = None
    reference: str | None = None
    """Path of a recording in whose voice to speak."""
    reference_text: str = ""
    live: bool = True
    """As early as can be; a part that did not end well cannot be spoken again, then."""
