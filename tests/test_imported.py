"""Durations from TextGrids as the Montreal Forced Aligner writes them."""

import pytest

from alignments.imported import durations_from_textgrid, find_textgrid
from alignments.textgrids import Interval, read_textgrid, save_textgrid, word_and_phone_intervals
from config import AudioConfig

AUDIO = AudioConfig(sample_rate=16000, hop_length=160)  # 100 frames a second
# "for the time", of which our IPA has the first two words as one
WORDS = [(0.1, 0.3, "for"), (0.3, 0.4, "the"), (0.6, 1.0, "time")]
PHONES = [
    (0.1, 0.2, "F"), (0.2, 0.3, "ER0"), (0.3, 0.35, "DH"), (0.35, 0.4, "AH0"), (0.6, 0.7, "T"), (0.7, 0.9, "AY1"),
    (0.9, 1.0, "M"),
]


def write(path, words=WORDS, phones=PHONES, seconds=1.2):
    save_textgrid(path, [Interval(*word) for word in words], [Interval(*phone) for phone in phones], seconds)
    return path


def durations(path, ipa="fɚðə tˈaɪm.", frames=120, seconds=1.2):
    return durations_from_textgrid(path, ipa, frames, seconds, AUDIO)


def test_one_to_one_with_merged_words_and_a_diphthong(tmp_path):
    #                                        f   ɚ   ð  ə  ' '  t  ˈ  a   ɪ   m  .
    assert durations(write(tmp_path / "a.TextGrid")) == [10, 10, 10, 5, 5, 20, 10, 0, 10, 10, 10, 0, 20]


def test_ipa_of_the_aligner_and_its_silences(tmp_path):
    words = [(0.0, 0.1, "<eps>"), (0.1, 0.3, "I"), (0.3, 0.8, "owe"), (0.8, 1.2, "")]
    phones = [(0.0, 0.1, "sil"), (0.1, 0.3, "aj"), (0.3, 0.8, "ow"), (0.8, 1.2, "sil")]
    #                                                               aɪ  oʊ
    assert durations(write(tmp_path / "a.TextGrid", words, phones), "aɪ ˈoʊ") == [10, 10, 10, 0, 0, 25, 25, 40]


def test_other_counts_are_spread_in_proportion(tmp_path):
    # t a m: three of ours over four of theirs (t a ɪ m)
    got = durations(write(tmp_path / "a.TextGrid"), ipa="fɚðə tˈam")
    assert got[:6] == [10, 10, 10, 5, 5, 20]
    assert got[6:10] == [13, 0, 14, 13]  # edges at 4/3 and 8/3 of theirs: 0.733 and 0.867 s
    assert sum(got) == 120


def test_every_phone_has_a_frame_however_short(tmp_path):
    phones = [(0.1, 0.101, "F"), (0.101, 0.102, "ER0"), (0.102, 0.103, "DH"), (0.103, 0.4, "AH0"), *PHONES[4:]]
    words = [(0.1, 0.102, "for"), (0.102, 0.4, "the"), WORDS[2]]
    got = durations(write(tmp_path / "a.TextGrid", words, phones))
    assert min(got[i] for i in (1, 2, 3, 4, 6, 8, 9, 10)) >= 1
    assert sum(got) == 120
    tight = durations(write(tmp_path / "a.TextGrid"), frames=8)
    assert tight == [0, 1, 1, 1, 1, 0, 1, 0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(("changes", "reason"), [
    ({"seconds": 1.5}, "is 1.50 s long, the recording 1.20 s"),
    ({"phones": [*PHONES[:4], (0.6, 1.0, "spn")]}, "the word 'time' at 0.60 s was unknown"),
    ({"phones": PHONES[:4]}, "the word 'time' at 0.60 s has no phones"),
    ({"words": [(0.1, 0.4, "shh")], "phones": [(0.1, 0.4, "SH")]}, "have other phones than the text's 2"),
    ({"words": [], "phones": []}, "has 0 words, its text 2"),
])
def test_what_does_not_fit_is_refused_by_name(tmp_path, changes, reason):
    path = write(tmp_path / "a.TextGrid", **changes)
    with pytest.raises(ValueError, match=reason) as error:
        durations(path)
    assert str(path) in str(error.value)


def test_damaged_files(tmp_path):
    whole = write(tmp_path / "a.TextGrid").read_text()
    for broken in (whole[: len(whole) // 2], whole[:-60], "not a TextGrid", ""):
        path = tmp_path / "b.TextGrid"
        path.write_text(broken)
        with pytest.raises(ValueError, match=r"b\.TextGrid: "):
            read_textgrid(path)
    gap = whole.replace('xmin = 0.3 \n            xmax = 0.4', 'xmin = 0.32 \n            xmax = 0.4')
    assert gap != whole
    path.write_text(gap)
    with pytest.raises(ValueError, match=r"has a gap from 0\.3 to 0\.32 s"):
        read_textgrid(path)
    path.write_text(whole.replace('"phones"', '"sounds"'))
    with pytest.raises(ValueError, match="0 tiers 'phones'"):
        read_textgrid(path)


def test_too_many_phones_for_the_frames(tmp_path):
    with pytest.raises(ValueError, match="8 phones in 7 mel frames"):
        durations(write(tmp_path / "a.TextGrid"), frames=7)


def test_where_textgrids_are_looked_for(tmp_path):
    recording = tmp_path / "wavs" / "x.wav"
    with pytest.raises(ValueError, match=r"no TextGrid x\.TextGrid in"):
        find_textgrid(tmp_path, recording, "anna")
    (tmp_path / "anna").mkdir()
    nested = write(tmp_path / "anna" / "x.TextGrid")
    assert find_textgrid(tmp_path, recording, "anna") == nested
    flat = write(tmp_path / "x.TextGrid")
    assert find_textgrid(tmp_path, recording, "anna") == flat


def test_what_we_write_is_read_as_it_was(tmp_path):
    ipa, frames = "hˈaɪ, nˈaʊ.", [7, 3, 0, 4, 5, 9, 0, 6, 0, 2, 8, 0, 6]
    words, phones = word_and_phone_intervals(ipa, frames, 0.5, AUDIO)
    assert [(word.label, round(word.start, 3), round(word.end, 3)) for word in words] == [
        ("hˈaɪ", 0.07, 0.19), ("nˈaʊ", 0.28, 0.44),
    ]
    save_textgrid(tmp_path / "a.TextGrid", words, phones, 0.5)
    assert durations(tmp_path / "a.TextGrid", ipa, frames=50, seconds=0.5) == [7, 3, 0, 4, 5, 9, 0, 6, 0, 2, 8, 0, 6]
