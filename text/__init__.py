"""From text to symbol ids: normalise, phonemise, tokenise.

A name is imported when it is first asked for, so that what works with IPA alone needs no phonemizer.
"""

from importlib import import_module

_MODULES = {
    "Frontend": "tokenizer", "Unspeakable": "errors", "build_frontend": "tokenizer", "normalize_ipa": "symbols",
    "split_passages": "passages", "split_sentences": "sentences",
}
__all__ = ["Frontend", "Unspeakable", "build_frontend", "normalize_ipa", "split_passages", "split_sentences"]


def __getattr__(name: str) -> object:
    """PEP 562."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
