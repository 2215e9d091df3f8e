import pytest

from text import split_passages


def test_passages_have_their_languages():
    text = 'He said: <lang xml:lang="de">Guten Tag.</lang> Then <lang  xml:lang = "es">¿Qué?\nNada.</lang >'
    assert split_passages(text, "en-us") == [
        ("He said: ", "en-us"), ("Guten Tag.", "de"), (" Then ", "en-us"), ("¿Qué?\nNada.", "es"),
    ]
    assert split_passages("1 < 2, <b>plain</b>, <language>", "de") == [("1 < 2, <b>plain</b>, <language>", "de")]
    assert split_passages(" \n", "de") == []


@pytest.mark.parametrize("text", [
    '<lang xml:lang="de">Guten', "Guten</lang> Tag", "<lang de>Guten</lang>", '<lang xml:lang="">Guten</lang>',
    '<lang xml:lang="de">a <lang xml:lang="es">b</lang> c</lang>',
])
def test_half_a_mark_is_refused(text):
    with pytest.raises(ValueError, match=r'mark a passage with <lang xml:lang="de">\.\.\.</lang>, and none inside'):
        split_passages(text, "en-us")
