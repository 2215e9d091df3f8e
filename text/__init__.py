"""From text to symbol ids: normalise, phonemise, tokenise."""

from text.errors import Unspeakable
from text.passages import split_passages
from text.sentences import split_sentences
from text.symbols import normalize_ipa
from text.tokenizer import Frontend, build_frontend

__all__ = ["Frontend", "Unspeakable", "build_frontend", "normalize_ipa", "split_passages", "split_sentences"]
