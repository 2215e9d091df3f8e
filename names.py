"""Speakers and languages that a model learned, by their names."""


def speaker_for(language: str, speakers: list[str], speaker_languages: dict[str, str]) -> str:
    """The first of the speakers whose language this is; the first of all if it is nobody's."""
    return next((name for name in speakers if speaker_languages[name] == language), speakers[0])


def index_of(names: list[str], name: str, what: str) -> int:
    """Where a name is among those learned; ValueError if it is not, `what` saying what it is the name of."""
    if name not in names:
        raise ValueError(f"{what} {name!r} is not among those this model learned: {', '.join(names)}")
    return names.index(name)
