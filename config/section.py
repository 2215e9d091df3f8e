"""What every section of the config is made of."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0, lt=2**31)]
Size = Annotated[int, Field(gt=0, le=2**17)]
"""Width of a network."""
Count = Annotated[int, Field(gt=0, le=1000)]
"""Of its parts."""
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError(f"{size} is even; a kernel needs a middle")
    return size


Odd = Annotated[int, Field(gt=0, le=999), AfterValidator(_odd)]


def check_lookahead(lookahead: int | None, n_convolutions: int) -> None:
    """ValueError if so many convolutions cannot hear so many frames ahead."""
    most = 3 * n_convolutions
    if (lookahead or 0) > most:
        raise ValueError(f"lookahead {lookahead}: {n_convolutions} convolutions, 3 frames each, hear at most {most}; "
                         "take no more, or null for all of them")


class Section(BaseModel):
    """A part of the config: immutable, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
