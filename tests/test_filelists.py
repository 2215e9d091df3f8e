"""read_filelist and write_filelist: what is written is read, and every bad line is named."""

import pytest

from data_utils import DEFAULT_LANGUAGE, DEFAULT_SPEAKER, Clip, read_filelist, write_filelist


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_two_three_and_four_columns(tmp_path):
    assert read_filelist(write(tmp_path / "2", "a.wav|one\n")) == [
        Clip(tmp_path / "a.wav", "one", DEFAULT_SPEAKER, DEFAULT_LANGUAGE),
    ]
    assert read_filelist(write(tmp_path / "3", "a.wav|anna|one\n")) == [
        Clip(tmp_path / "a.wav", "one", "anna", DEFAULT_LANGUAGE),
    ]
    assert read_filelist(write(tmp_path / "4", "a.wav|anna|de|eins\n")) == [
        Clip(tmp_path / "a.wav", "eins", "anna", "de"),
    ]


def test_blank_lines_spaces_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffa.wav | one \r\n\r\nb.wav|zwei Straßen\r\n".encode())
    assert [(c.path.name, c.text) for c in read_filelist(path)] == [("a.wav", "one"), ("b.wav", "zwei Straßen")]


def test_absolute_paths_stay(tmp_path):
    path = write(tmp_path / "list.txt", "/data/a.wav|one\n../b.wav|two\n")
    assert [str(c.path) for c in read_filelist(path)] == ["/data/a.wav", f"{tmp_path}/../b.wav"]


def test_what_is_written_is_read(tmp_path):
    clips = [Clip(tmp_path / "clips/a.wav", "Ça, c’est \"bon\".", "anna", "fr"), Clip(tmp_path / "b.wav", "ˈaɪpʰiːeɪ")]
    write_filelist(tmp_path / "lists/train.txt", clips)
    read = read_filelist(tmp_path / "lists/train.txt")
    assert [(c.path.resolve(), c.text, c.speaker, c.language) for c in read] == [
        (c.path, c.text, c.speaker, c.language) for c in clips
    ]
    assert [path.name for path in (tmp_path / "lists").iterdir()] == ["train.txt"]


def test_names_that_lead_to_other_folders_are_refused(tmp_path):
    for name in ("../../etc", "/etc", "..", "a\\b", "a/b"):
        path = write(tmp_path / "list.txt", f"a.wav|{name}|one\n")
        with pytest.raises(ValueError, match=r"line 1: a speaker or language that is no name.* must not hold / or"):
            read_filelist(path)


def test_an_interrupted_write_leaves_the_old_filelist(tmp_path):
    path = write(tmp_path / "list.txt", "a.wav|one\n")

    def broken():
        yield Clip(tmp_path / "b.wav", "two")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_filelist(path, broken())
    assert path.read_text() == "a.wav|one\n"


def test_every_bad_line_is_named(tmp_path):
    path = write(tmp_path / "list.txt", "a.wav|anna|one\nno text\nb.wav|two\n|anna|three\nc.wav||four\nd.wav|anna|\n"
                                        "a.wav|anna|again\n")
    with pytest.raises(ValueError, match="bad line") as caught:
        read_filelist(path)
    assert str(caught.value).splitlines() == [
        f"{path}: 6 bad line(s)",
        "  line 2: 1 columns, expected path|text, path|speaker|text or path|speaker|language|text",
        "  line 3: 2 columns, the lines before have 3",
        "  line 4: empty path, speaker or language",
        "  line 5: empty path, speaker or language",
        "  line 6: no text",
        "  line 7: the same path as line 1: a.wav",
    ]


def test_many_bad_lines_are_counted(tmp_path):
    path = write(tmp_path / "list.txt", "nothing\n" * 14)
    with pytest.raises(ValueError, match=r"14 bad line\(s\)(\n.*){10}\n  \.\.\. and 4 more$"):
        read_filelist(path)


def test_text_may_be_missing_where_no_stage_needs_it(tmp_path):
    path = write(tmp_path / "list.txt", "a.wav|anna|\n")
    assert read_filelist(path, needs_text=False)[0].text == ""


@pytest.mark.parametrize(("content", "reason"), [
    (None, "no such filelist"), (b"", "the filelist is empty"), (b"\n \n", "the filelist is empty"),
    ("a.wav|Stra\xdfe".encode("latin-1"), "not UTF-8"),
])
def test_unusable_files_are_named(content, reason, tmp_path):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"list.txt: {reason}"):
        read_filelist(path)
