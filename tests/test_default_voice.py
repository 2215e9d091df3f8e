"""The voice that comes with the repository."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from synthesis.timings import spoken_intervals
from synthesize import DEFAULT_VOICE, load_synthesizer, synthesize_text
from voice_folder import read_model


@pytest.mark.parametrize(("text", "language", "speaker"), [
    ("Hello world.", "en-us", None),
    ("The quick brown fox jumps over the lazy dog.", "en-us", "kathleen"),
    ("Guten Tag, wie geht es dir?", "de", None),
    ("Goedemorgen, hoe gaat het met u?", "nl", "nathalie"),
    ("Ik ben er morgen weer.", "nl", "flemishguy"),
])
def test_it_speaks(text, language, speaker):
    samples, sample_rate = synthesize_text(text, language, speaker)
    assert sample_rate == 22050
    speech = load_synthesizer().speak(text, language, speaker)
    assert torch.equal(samples, speech.samples)
    assert len(spoken_intervals(speech.parts, "words")) == len(text.split())
    assert 0.04 < speech.seconds / len(text) < 0.12
    level = samples.unfold(0, 512, 256).std(1)
    assert (level > 0.01).float().mean() > 0.4
    assert level.max() > 3 * level.min()


def test_it_is_heard_in_pieces_as_it_is_heard_whole():
    text = "The quick brown fox jumps over the lazy dog, while five wizards are watching from the other side."
    chunks = [speech.samples for speech in load_synthesizer().stream(text)]
    assert len(chunks) > 3
    torch.testing.assert_close(torch.cat(chunks), load_synthesizer().speak(text).samples, atol=1e-5, rtol=0)


def test_it_speaks_without_libraries_that_only_training_needs():
    """They take longer to load than the voice itself."""
    code = ("import sys, synthesize; synthesize.synthesize_text('Hello world.');"
            "sys.exit(' '.join({'transformers', 'accelerate', 'datasets'} & set(sys.modules)) or 0)")
    ran = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_it_is_small_and_says_what_it_is_made_of():
    folder = Path(DEFAULT_VOICE)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 40e6
    assert read_model(folder).stages.keys() == {"aligned", "vocoder"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(name in card for name in ("CC0", *load_synthesizer().speakers))
