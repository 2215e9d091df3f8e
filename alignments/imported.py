"""Durations from TextGrids of the Montreal Forced Aligner, whose phones are not quite the ones of our IPA."""

from itertools import pairwise
from pathlib import Path

from alignments.textgrids import Interval, read_textgrid
from config import AudioConfig
from text.phonemes import AlignmentUnit, alignment_units

UNKNOWN_WORDS = {"spn", "<unk>", "unk", "noise", "nsn"}
LENGTH_TOLERANCE = 0.05
"""Seconds that a TextGrid may be longer or shorter than the recording."""
ARPABET = {
    "AA": "ɑ", "AE": "æ", "AH": "ʌ", "AO": "ɔ", "AW": "aʊ", "AX": "ə", "AXR": "ɚ", "AY": "aɪ", "B": "b", "CH": "tʃ",
    "D": "d", "DH": "ð", "DX": "ɾ", "EH": "ɛ", "ER": "ɜ", "EY": "eɪ", "F": "f", "G": "ɡ", "HH": "h", "IH": "ɪ",
    "IX": "ɨ", "IY": "i", "JH": "dʒ", "K": "k", "L": "l", "M": "m", "N": "n", "NG": "ŋ", "OW": "oʊ", "OY": "ɔɪ",
    "P": "p", "R": "ɹ", "S": "s", "SH": "ʃ", "T": "t", "TH": "θ", "UH": "ʊ", "UW": "u", "V": "v", "W": "w", "Y": "j",
    "Z": "z", "ZH": "ʒ",
}
GLIDES = {"aj": "aɪ", "aw": "aʊ", "ej": "eɪ", "ow": "oʊ", "ɔj": "ɔɪ", "əw": "əʊ"}
"""Diphthongs, as the aligner's IPA dictionaries write them."""
VOWELS = set("aeiouyæøœɐɑɒɔɘəɚɛɜɝɞɤɨɪɯɵɶʉʊʌʏᵻ")
LETTERS = ARPABET | GLIDES
MAX_DIFFERENCE = 0.4
"""Of the phones, before a text counts as another one."""
MAX_MERGED = 4
"""Words of one alignment that may be one word of the other: espeak-ng says "for the" as one."""


def find_textgrid(folder: str | Path, recording: Path, speaker: str) -> Path:
    """`folder/<name>.TextGrid` or `folder/<speaker>/<name>.TextGrid` of a recording; ValueError if neither is there."""
    for path in (Path(folder) / f"{recording.stem}.TextGrid", Path(folder) / speaker / f"{recording.stem}.TextGrid"):
        if path.is_file():
            return path
    raise ValueError(f"{recording}: no TextGrid {recording.stem}.TextGrid in {folder} or its folder {speaker}")


def durations_from_textgrid(path: Path, ipa: str, frames: int, seconds: float, audio: AudioConfig) -> list[int]:
    """Durations as `durations_cache` has them, of `frames` mel frames, from a TextGrid of the same words.

    Its phones may be ARPAbet or IPA. Words are matched in order, up to MAX_MERGED of one side with one of the other.
    Inside them, if both sides have equally many phones (a diphthong or affricate counts twice, halved in time), each
    has its own; otherwise the phones of `ipa` are spread over theirs in proportion. ValueError if the length is not the
    recording's, if a word was unknown to the aligner, if the phones are others, or do not fit into the frames.
    """
    words, phones, length = read_textgrid(path)
    if abs(length - seconds) > LENGTH_TOLERANCE:
        raise ValueError(f"{path}: is {length:.2f} s long, the recording {seconds:.2f} s")
    units = alignment_units(ipa)
    mine = _split(units)
    theirs = [_letters(path, word, phones) for word in words if word.label]
    if not mine or not theirs:
        raise ValueError(f"{path}: has {len(theirs)} words, its text {len(mine)}")
    ends: dict[int, float] = {}
    starts: dict[int, float] = {}
    for my_words, their_words in _match(path, mine, theirs):
        my_units = [unit for word in my_words for unit in word]
        edges = _spread([letter for word in their_words for letter in word], len(my_units))
        for unit, (start, end) in zip(my_units, edges, strict=True):
            starts[unit.place], ends[unit.place] = start, end
    return _frames_of(path, units, starts, ends, frames, audio)


def _split(units: list[AlignmentUnit]) -> list[list[AlignmentUnit]]:
    """The phones of each word."""
    words: list[list[AlignmentUnit]] = [[]]
    for unit in units:
        if unit.optional:
            words.append([])
        else:
            words[-1].append(unit)
    return [word for word in words if word]


def _letters(path: Path, word: Interval, phones: list[Interval]) -> list[Interval]:
    """The letters of our table that sound in a word; a phone of several has its time shared among them."""
    letters = []
    inside = [p for p in phones if p.label and word.start - 1e-3 <= (p.start + p.end) / 2 <= word.end + 1e-3]
    for phone in inside:
        if phone.label.lower() in UNKNOWN_WORDS:
            raise ValueError(f"{path}: the word '{word.label}' at {word.start:.2f} s was unknown to its aligner; add "
                             "it to the dictionary there, and align again")
        symbols = [u.symbol for u in alignment_units(LETTERS.get(phone.label.rstrip("0123456789"), phone.label))
                   if not u.optional]
        step = (phone.end - phone.start) / max(1, len(symbols))
        letters += [Interval(phone.start + i * step, phone.start + (i + 1) * step, s) for i, s in enumerate(symbols)]
    if not letters:
        raise ValueError(f"{path}: the word '{word.label}' at {word.start:.2f} s has no phones")
    return letters


def _distance(mine: list[str], theirs: list[str]) -> float:
    """Edit distance where a vowel for a vowel, or a consonant for a consonant, costs half."""
    row = [float(i) for i in range(len(theirs) + 1)]
    for i, a in enumerate(mine, 1):
        diagonal, row[0] = row[0], float(i)
        for j, b in enumerate(theirs, 1):
            change = 0.0 if a == b else 0.5 if (a in VOWELS) == (b in VOWELS) else 1.5
            diagonal, row[j] = row[j], min(diagonal + change, row[j] + 1, row[j - 1] + 1)
    return row[-1]


def _match(path: Path, mine: list[list[AlignmentUnit]], theirs: list[list[Interval]]) -> list[tuple[list, list]]:
    """Words that belong together, by the least distance of their phones; ValueError if they are not the same text."""
    infinite = float("inf")
    best = {(0, 0): (0.0, (0, 0))}
    for i in range(len(mine) + 1):
        for j in range(len(theirs) + 1):
            for m, n in [(1, k) for k in range(1, MAX_MERGED + 1)] + [(k, 1) for k in range(2, MAX_MERGED + 1)]:
                before = best.get((i - m, j - n))
                if before is None:
                    continue
                ours = [unit.symbol for word in mine[i - m : i] for unit in word]
                other = [letter.label for word in theirs[j - n : j] for letter in word]
                cost = before[0] + _distance(ours, other)
                if cost < best.get((i, j), (infinite,))[0]:
                    best[i, j] = cost, (i - m, j - n)
    end = (len(mine), len(theirs))
    count = sum(map(len, mine))
    if end not in best or best[end][0] > MAX_DIFFERENCE * count:
        raise ValueError(f"{path}: its {len(theirs)} words have other phones than the text's {len(mine)}")
    pairs = []
    while end != (0, 0):
        start = best[end][1]
        pairs.append((mine[start[0] : end[0]], theirs[start[1] : end[1]]))
        end = start
    return pairs[::-1]


def _spread(theirs: list[Interval], count: int) -> list[tuple[float, float]]:
    """(start, end) of `count` phones over those of a word: equally many one to one, else in proportion."""
    if count == len(theirs):
        return [(phone.start, phone.end) for phone in theirs]
    edges = [phone.start for phone in theirs] + [theirs[-1].end]
    places = [i * len(theirs) / count for i in range(count + 1)]
    times = [edges[int(p)] + (p - int(p)) * (edges[min(int(p) + 1, len(theirs))] - edges[int(p)]) for p in places]
    return list(pairwise(times))


def _frames_of(
    path: Path, units: list[AlignmentUnit], starts: dict[int, float], ends: dict[int, float], frames: int,
    audio: AudioConfig,
) -> list[int]:
    """Whole frames of the units between their times, at least one for each phone."""
    phones = [unit for unit in units if not unit.optional]
    if len(phones) > frames:
        raise ValueError(f"{path}: {len(phones)} phones in {frames} mel frames")
    first = [round(starts[unit.place] * audio.frame_rate) for unit in phones]
    last = [round(ends[unit.place] * audio.frame_rate) for unit in phones]
    for i in range(len(phones)):  # from the left each phone leaves a frame to those before it, from the right behind it
        first[i] = max(first[i], last[i - 1] if i else 0)
        last[i] = max(last[i], first[i] + 1)
    for i in reversed(range(len(phones))):
        last[i] = min(last[i], first[i + 1] if i + 1 < len(phones) else frames)
        first[i] = min(first[i], last[i] - 1)
    durations, at = [0] * (units[-1].place + 1), 0
    edges = iter(zip(first, last, strict=True))
    for before, unit in pairwise(units):  # the first and the last unit are silences
        if not unit.optional:
            start, end = next(edges)
            durations[before.place] += start - at
            durations[unit.place] += end - start
            at = end
    durations[units[-1].place] += frames - at
    return durations
