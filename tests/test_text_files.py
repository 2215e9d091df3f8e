import pytest

from text_files import read_text


def test_text_without_its_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffGrüße\n".encode())
    assert read_text(tmp_path / "a.txt") == "Grüße\n"


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.txt: no such lexicon"):
        read_text(tmp_path / "gone.txt", "lexicon")
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt: not UTF-8 .*; save it as UTF-8"):
        read_text(tmp_path / "latin.txt")
