"""The voices to train from: folders with `metadata.csv`, and the language that each speaks."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from preprocessing.recordings import find_recordings

log = logging.getLogger(__name__)

LANGUAGE_FILE = "language.txt"
SAMPLED_TEXTS = 200
CLEAR_SHARE = 0.8
"""Of the texts that must be taken for the same language: of single read sentences, 97 % and more are taken right."""


@dataclass(frozen=True)
class Voice:
    """One speaker's recordings."""

    name: str
    """Of the speaker: the folder's."""
    folder: Path
    language: str
    """As it was given, or its ISO 639 code where the texts themselves tell it."""


def find_voices(source: Path, given: Sequence[str] = ()) -> list[Voice]:
    """The folder `source` if it has a metadata.csv, else every folder in it that has one, by name.

    `given`: one language for all, or `folder=language` for some; for the others language.txt in the folder, and where
    there is none, the language that their texts are in. ValueError for a folder without voices, for a name in `given`
    that is none of them, and for texts whose language is not clear.
    """
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder; name one with a metadata.csv in it, or one of such folders")
    folders = [source] if (source / "metadata.csv").is_file() else [
        folder for folder in sorted(source.iterdir()) if (folder / "metadata.csv").is_file()]
    if not folders:
        raise ValueError(f"{source}: neither it nor a folder in it has a metadata.csv (lines of id|text, the "
                         "recordings in audio/, wavs/ or beside it)")
    by_name = {re.sub(r"[|\s]+", "_", folder.resolve().name): folder for folder in folders}
    if len(by_name) < len(folders):
        raise ValueError(f"{source}: two of its folders have the same name but for spaces; rename one")
    named = _named_languages(given, list(by_name))
    return [Voice(name, folder, named.get(name) or _language_of(name, folder)) for name, folder in by_name.items()]


def _named_languages(given: Sequence[str], names: list[str]) -> dict[str, str]:
    """{voice: language}; ValueError for what cannot be understood."""
    parts = [item.partition("=") for item in given]
    if len(parts) == 1 and not parts[0][1]:
        return dict.fromkeys(names, given[0])
    for name, equals, language in parts:
        if not equals or not language:
            raise ValueError(f"language {name!r}: give one for all voices, or folder=language for each")
        if name not in names:
            raise ValueError(f"language {name}={language}: there is no voice {name}, but {', '.join(names)}")
    return {name: language for name, _, language in parts}


def _language_of(name: str, folder: Path) -> str:
    file = folder / LANGUAGE_FILE
    if file.is_file():
        language = file.read_text(encoding="utf-8").strip()
        if not re.fullmatch(r"[\w-]+", language):
            raise ValueError(f"{file}: must hold one name of a language, as espeak-ng has it (en-us, de, ...)")
        return language
    votes = language_votes(_texts(folder))
    language, share = next(iter(votes.items()))
    if share < CLEAR_SHARE:
        seen = ", ".join(f"{other} {part:.0%}" for other, part in list(votes.items())[:3])
        raise ValueError(f"{folder}: its language is not clear from its texts ({seen}); say it with --language "
                         f"{name}=NAME (make voice LANGUAGE={name}=NAME), or write the name into {file}")
    log.info("%s: %.0f %% of its texts are in the language %s; --language %s=NAME or %s for another", name, 100 * share,
             language, name, file)
    return language


def other_language(voice: Voice) -> str | None:
    """What the texts of a voice are in (an ISO 639 code), if that is clear and not the language it is said to speak;
    None for languages that cannot be told from text."""
    votes = language_votes(_texts(voice.folder))
    language, share = next(iter(votes.items()))
    said = voice.language.lower().replace("_", "-").split("-")[0]
    return language if said in _identifier().labels and language != said and share >= CLEAR_SHARE else None


def language_votes(texts: Sequence[str]) -> dict[str, float]:
    """The share of the texts that are in each language (an ISO 639 code), largest first, from at most SAMPLED_TEXTS."""
    sample = texts[:: -(-len(texts) // SAMPLED_TEXTS)]
    votes = Counter(_identifier().classify(text)[0] for text in sample)
    return {language: count / len(sample) for language, count in votes.most_common()}


def _texts(folder: Path) -> list[str]:
    texts = [recording.text for recording in find_recordings(folder, folder / "clips", None, None) if recording.text]
    if not texts:
        raise ValueError(f"{folder / 'metadata.csv'}: holds no text")
    return texts


@lru_cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE)
