import pytest

from config import TextConfig
from text import Unspeakable, build_frontend
from text.pieces import NO_MARK_PAUSE, PARAGRAPH_PAUSE, PAUSES, SENTENCE_PAUSE, Piece, split_text

FRONTEND = build_frontend(TextConfig())


def pieces_of(text: str, input_type: str = "text", cut=lambda ipa: [ipa]) -> list[Piece]:
    return list(split_text(text, "en-us", input_type, FRONTEND, cut))


def test_sentences_paragraphs_and_languages():
    text = 'Yes. "No", he said\n\n...\n\n3 <lang xml:lang="de">Ja!</lang> Well then?'
    pieces = pieces_of(text)
    assert [piece.text for piece in pieces] == ["Yes.", '"No", he said', "3", "Ja!", "Well then?"]
    assert [piece.language for piece in pieces] == ["en-us"] * 3 + ["de", "en-us"]
    assert [piece.pause for piece in pieces[1:]] == [SENTENCE_PAUSE, PARAGRAPH_PAUSE, SENTENCE_PAUSE, SENTENCE_PAUSE]
    assert pieces[2].ipa == FRONTEND.phonemize("three", "en-us")
    assert pieces[3].ipa == FRONTEND.phonemize("Ja!", "de")


def test_parts_of_a_sentence_have_the_pauses_of_their_marks():
    pieces = pieces_of("ɐ, bˈiː (sˈiː;) dˈiː", "ipa", cut=str.split)
    assert [piece.pause for piece in pieces] == [0, PAUSES[","], NO_MARK_PAUSE, PAUSES[";"]]
    assert [piece.text for piece in pieces] == ["ɐ, bˈiː (sˈiː;) dˈiː", "", "", ""]


def test_what_cannot_be_spoken_is_left_out(caplog):
    def cut(ipa: str) -> list[str]:
        if len(ipa) > 30:
            raise Unspeakable("a word is too long")
        return [ipa]

    assert [piece.text for piece in pieces_of("Yes.\n\n---\n\nA very long sentence about nothing. No.", cut=cut)] == [
        "Yes.", "No."]
    assert caplog.messages == ["left out: nothing to speak in '---'", "left out: a word is too long"]
    with pytest.raises(ValueError, match="a word is too long"):
        pieces_of("A very long sentence about nothing.", cut=cut)
    for text in ("", " \n\n "):
        with pytest.raises(ValueError, match="there is nothing to say in the text"):
            pieces_of(text)


def test_pieces_are_made_as_they_are_asked_for():
    asked = []
    pieces = split_text("One. Two. Three.", "en-us", "text", FRONTEND, lambda ipa: asked.append(ipa) or [ipa])
    next(pieces)
    assert len(asked) == 1
