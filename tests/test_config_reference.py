"""config_reference.py: docs/config.md says what the typed config is."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from config import Config, load_config
from config_reference import meanings, models_in, reference, sections, value_of

PAGE = Path(__file__).parents[1] / "docs" / "config.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python3 config_reference.py -o docs/config.md"


def test_every_key_of_the_configs_is_in_it():
    page, places = reference(), {place for place, _, _ in sections("", Config)}
    assert {"audio", "codec.bottleneck", "aligned.decoder", "train.<stage>", "train.vocoder"} <= places

    def check(values: dict, path: str) -> None:
        for key, value in values.items():
            assert f"| `{key}` |" in page or key == "kind" or path.endswith("loss_weights")
            if isinstance(value, dict):
                check(value, f"{path}.{key}")

    for path in (PAGE.parents[1] / "configs").glob("*.json"):
        check(load_config(path).model_dump(), "")


class Inner(BaseModel):
    size: int = 1
    """How large
    it is."""


class Outer(Inner):
    """Of a test."""

    inner: Inner | None = None
    name: str = "a"
    """What it is called."""


def test_meanings_are_the_docstrings_under_the_keys_and_are_inherited():
    assert meanings(Outer) == {"size": "How large it is.", "name": "What it is called."}
    assert models_in(Outer.model_fields["inner"].annotation) == [Inner]


@pytest.mark.parametrize(("annotation", "words"), [
    (Annotated[int, Field(gt=0, multiple_of=2)] | None, "whole number over 0, multiple of 2 or `null`"),
    (Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=1)],
     "list: number at least 0, under 1 (1 or more)"),
    (tuple[int, int], "list of 2: whole number"),
    (dict[str, bool], "object of `true` or `false`"),
    (Literal["a", 2], '`"a"` or `2`'),
])
def test_values_in_words(annotation, words):
    assert value_of(annotation) == words
