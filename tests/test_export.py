"""An exported voice speaks as its checkpoints do, and says what is wrong with it."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import run_script, write_config
from test_train_aligned import aligned_config

from checkpoints import BEST_FILE, checkpoint_path, network_weights, require_checkpoint, write_checkpoint
from config import load_config
from decoding.weights import MATRICES
from mel_processing import load_audio, log_mel
from models import build_aligned_tts
from models.aligned_tts import Prosody
from models.layers.sampling import Sampling
from onnx_runner.voice import OnnxVoice
from synthesize import Synthesizer, loaded
from text import build_frontend
from voice_folder import LEXICON_FILE, MODEL_FILE, NOT_EXPORTED, read_stage, write_voice

TEXT = "A man sat down. He saw a tree!"
IPA = "ɐ mˈæn sˈæt dˈaʊn."
ROOT = Path(__file__).parents[1]
WITHOUT = """
import sys
for name in {missing}:
    sys.modules[name] = None
sys.path.insert(0, {root!r})
import onnx_voice
sys.argv = ["onnx_voice.py", *{arguments}]
onnx_voice.main()
assert not {missing} & {{name for name, module in sys.modules.items() if module}}
"""


def say(model: str, text: str = TEXT) -> torch.Tensor:
    return Synthesizer(model).speak(text, "en-us", seed=1).samples


def export(model: str = "tiny", precision: str = "fp32") -> str:
    run_script("export", "-m", model, "-o", f"voices/{precision}", "--precision", precision)
    return f"voices/{precision}"


def train_hidden() -> None:
    """A system over hidden states in the place of the chain's."""
    shutil.rmtree("checkpoints/tiny/vocoder")
    stage = {"conditioning": "hidden", "segment_frames": 24, "adversarial_frames": 12, "max_steps": 2}
    run_script("train_vocoder", "-c", write_config(train__vocoder=stage), "-m", "tiny")
    shutil.rmtree("checkpoints/tiny/llm")


@pytest.fixture
def aligned_chain(own_chain):
    """The chain with an aligned-duration model that learned nothing, and a word of its own."""
    Path("words.txt").write_text("zyx\thəlˈoʊ\n")
    write_aligned("flow")
    return own_chain


def write_aligned(kind: str) -> None:
    config = write_aligned_config(kind)
    frontend = build_frontend(config.text)
    data = {"config": config.model_dump(), "text": frontend.state(), "speakers": ["bruno", "ella"],
            "speaker_languages": {"bruno": "de", "ella": "en-us"}, "languages": ["de", "en-us"],
            "speaker_pitch": {"bruno": 110.3, "ella": 1 / 3}}
    torch.manual_seed(0)
    model, average = build_aligned_tts(config, data), build_aligned_tts(config, data)
    duration = average.predictors["duration"].out
    torch.nn.init.zeros_(duration.weight)  # none so near to half a frame that fp16 makes it another number of them
    torch.nn.init.constant_(duration.bias, 2.0)
    write_checkpoint(
        {**data, "stage": "aligned", "step": 7, "weights": model.state_dict(), "ema": average.state_dict(),
         "has_discriminator": False, "training": {"optimizer": {}}},
        checkpoint_path(Path("checkpoints/tiny/aligned"), "G", 7),
    )


def write_aligned_config(kind: str):
    path = Path(aligned_config(kind))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text": {"lexicon": "words.txt"}}))
    return load_config(path)


def test_an_aligned_voice_speaks_without_its_checkpoints(aligned_chain, caplog):
    caplog.set_level(logging.INFO)
    expected = say("tiny", TEXT + " Zyx.")
    stored = require_checkpoint("checkpoints/tiny/aligned", "")
    exact, half = export(), export(precision="fp16")
    sizes = [sum(path.stat().st_size for path in Path(folder).iterdir()) for folder in (exact, half)]
    assert f"voices/fp16: aligned system, fp16, {sizes[1] / 1e6:.1f} MB in all" in caplog.text
    assert sorted(path.name for path in Path(half).iterdir()) == [
        "aligned.safetensors", LEXICON_FILE, MODEL_FILE, "vocoder.safetensors"]
    assert all(name.startswith("vocoder.") for name in read_stage(Path(exact), "vocoder")["weights"])
    read = read_stage(Path(exact), "aligned")
    assert network_weights(read).keys() == stored["ema"].keys()
    assert all(torch.equal(value, read["weights"][name]) for name, value in stored["ema"].items())
    stored["config"]["text"]["lexicon"] = f"{exact}/{LEXICON_FILE}"
    kept = [{key: value for key, value in stage.items() if key not in NOT_EXPORTED} for stage in (stored, read)]
    assert json.loads(json.dumps(kept[0])) == kept[1]
    assert read["step"] == 7

    shutil.rmtree("checkpoints")
    Path("words.txt").unlink()
    assert torch.equal(say(exact, TEXT + " Zyx."), expected)
    speaks_half = say(half, TEXT + " Zyx.")
    assert not torch.equal(speaks_half, expected)
    assert (speaks_half - expected).norm() < 0.02 * expected.norm()
    audio = Synthesizer(half).audio
    mels = [log_mel(wave[None], audio) for wave in (speaks_half, expected)]
    assert (mels[0] - mels[1]).abs().mean() < 0.02


@pytest.mark.parametrize("hidden", [False, True], ids=["codes", "hidden"])
def test_a_token_voice_speaks_and_follows_a_reference(own_chain, hidden):
    if hidden:
        train_hidden()
    reference = {"reference": next(Path("data").glob("wavs/ella*.wav")), "reference_text": "Good.", "seed": 1}
    expected = say("tiny"), Synthesizer("tiny").speak("Hello.", **reference).samples
    exact, half = export(), export(precision="fp16")
    stages = {"vocoder", "codec"} if hidden else {"llm", "vocoder", "codec"}
    assert {path.stem for path in Path(half).glob("*.safetensors")} == stages
    shutil.rmtree("checkpoints")
    assert torch.equal(say(exact), expected[0])
    assert torch.equal(Synthesizer(exact).speak("Hello.", **reference).samples, expected[1])
    # a draw may fall on the other side; greedy, the codes are the same and the sound is close
    greedy = [Synthesizer(folder).speak("Hello.", sampling=Sampling(temperature=0)).samples for folder in (exact, half)]
    assert (greedy[0] - greedy[1]).norm() < 0.02 * greedy[0].norm()
    assert len(Synthesizer(half).speak("Hello.", **reference).samples)


@pytest.mark.parametrize("hidden", [False, True], ids=["codes", "hidden"])
def test_an_int8_voice_speaks_as_its_checkpoints_do_in_int8(own_chain, hidden):
    shutil.rmtree("checkpoints/tiny/llm")
    shutil.rmtree("checkpoints/tiny/vocoder")
    changes = {"train__vocoder": {"conditioning": "hidden", "segment_frames": 24, "max_steps": 2}} if hidden else {}
    config = write_config(llm={"hidden_size": 64, "n_layers": 2}, **changes)
    for script in ("train_llm", "train_vocoder"):
        run_script(script, "-c", config, "-m", "tiny")
    greedy = {"sampling": Sampling(temperature=0)}
    expected = Synthesizer("tiny", precision="int8")
    assert expected.system.fast_lm.precision == "int8"
    exact, small = export(), export(precision="int8")
    name = "vocoder" if hidden else "llm"
    sizes = [Path(folder, f"{name}.safetensors").stat().st_size for folder in (exact, small)]
    assert sizes[1] < (0.5 if hidden else 0.4) * sizes[0]

    # what is stored are the very integers that the checkpoint's weights become
    voice = Synthesizer(small)
    assert voice.system.fast_lm.precision == "int8"
    ours, theirs = (one.system.fast_lm.kernel_weights for one in (voice, expected))
    for matrix in MATRICES:
        found, wanted = getattr(ours, matrix), getattr(theirs, matrix)
        assert found.weight.dtype == np.int8
        assert np.array_equal(found.weight, wanted.weight)
        np.testing.assert_allclose(found.scale, wanted.scale, rtol=1e-6)
    samples = [one.speak("Hello.", **greedy).samples for one in (voice, expected)]
    assert (samples[0] - samples[1]).norm() < 0.02 * samples[1].norm()
    assert Synthesizer(small, precision="fp32").system.fast_lm.precision == "fp32"
    assert Synthesizer(exact).system.fast_lm.precision == "fp32"

    loaded.cache_clear()
    for model, file in (["-m", small], "stored.wav"), (["-m", "tiny", "--precision", "int8"], "own.wav"):
        run_script("synthesize", *model, "--text", "Hello.", "--temperature", 0, "-o", file)
    stored, own = (load_audio(path, voice.audio.sample_rate) for path in ("stored.wav", "own.wav"))
    assert (stored - own).norm() < 0.02 * own.norm()


def test_int8_without_a_language_model_is_refused(aligned_chain, capsys):
    loaded.cache_clear()
    for command in (["export", "-o", "voices/small"], ["synthesize", "--text", "Hello.", "-o", "hello.wav"]):
        with pytest.raises(SystemExit):
            run_script(*command, "-m", "tiny", "--precision", "int8")
        assert capsys.readouterr().err == (
            "error: checkpoints/tiny: int8 is for language models, which read all of their weights for every step; "
            "this is an aligned-duration model, which speaks in fp32 alone\n")
    assert not Path("voices").exists()


@pytest.mark.parametrize(("harm", "complaint"), [
    (lambda folder: (folder / "vocoder.safetensors").unlink(), r"vocoder\.safetensors: missing; export the voice"),
    (lambda folder: (folder / "vocoder.safetensors").write_bytes(b"x"), r"vocoder\.safetensors: damaged, or of an"),
    (lambda folder: (folder / MODEL_FILE).write_text("{}"), r"model\.json: damaged, or not of this version's format"),
    (lambda folder: (folder / MODEL_FILE).unlink(), "no exported voice, it has no model.json; make one with: python3"),
], ids=["missing", "damaged", "emptied", "no model.json"])
def test_a_damaged_voice_is_refused(aligned_chain, harm, complaint):
    folder = Path(export(precision="fp16"))
    harm(folder)
    with pytest.raises(ValueError, match=complaint):
        Synthesizer(str(folder))


def test_a_voice_is_not_written_over_or_in_halves(aligned_chain, caplog):
    export()
    with pytest.raises(ValueError, match=r"voices/fp32: is there already; remove it, or take another -o"):
        write_voice(Path("voices/fp32"), Path("checkpoints/tiny"), "aligned", {"aligned": ""}, "fp32", {})
    with pytest.raises(ValueError, match="nothing"):
        write_voice(Path("voices/other"), Path("checkpoints/tiny"), "aligned", {"aligned": "", "nothing": ""}, "fp32",
                    {})
    assert [path.name for path in Path("voices").iterdir()] == ["fp32"]


def test_the_best_checkpoints_can_be_exported(aligned_chain, capsys):
    for stage in ("aligned", "vocoder"):
        best = require_checkpoint(f"checkpoints/tiny/{stage}", "") | {"step": 1}
        write_checkpoint(best, Path(f"checkpoints/tiny/{stage}/{BEST_FILE}"))
    run_script("export", "-m", "tiny", "-o", "voices/best", "--best")
    run_script("export", "-m", "tiny", "-o", "voices/newest")
    steps = [{stage: read_stage(Path(f"voices/{name}"), stage)["step"] for stage in ("aligned", "vocoder")}
             for name in ("best", "newest")]
    assert steps == [{"aligned": 1, "vocoder": 1}, {"aligned": 7, "vocoder": 4}]
    Path(f"checkpoints/tiny/vocoder/{BEST_FILE}").unlink()
    for model, complaint in (("tiny", f"{BEST_FILE}: no such checkpoint"), ("voices/newest", "leave out --best")):
        with pytest.raises(SystemExit):
            run_script("export", "-m", model, "-o", "voices/none", "--best")
        assert complaint in capsys.readouterr().err
    assert not Path("voices/none").exists()


def test_fine_tuning_starts_from_a_voice(own_chain):
    newest = max(Path("checkpoints/tiny/llm").glob("G_step*.pth"))
    tuned = []
    for model, source in (("one", newest), ("two", export())):
        shutil.copytree("checkpoints/tiny/codec", f"checkpoints/{model}/codec")
        run_script("train_llm", "-c", "config.json", "-m", model, "--weights-from", source, "--max-steps", 2)
        tuned.append(require_checkpoint(f"checkpoints/{model}/llm", "")["weights"])
    assert all(torch.equal(value, tuned[1][name]) for name, value in tuned[0].items())
    with pytest.raises(ValueError, match="an exported voice with llm and vocoder and codec alone, aligned is needed"):
        read_stage(Path("voices/fp32"), "aligned")


def assert_onnx_says_the_same(folder: str, atol: float = 1e-4, text: str = TEXT, **options) -> None:
    """With the seed, and the other options of `Synthesizer.stream`, as PyTorch."""
    expected = list(Synthesizer(folder).stream(text, seed=3, batch_size=1, retries=0, **options))
    changes = {name: vars(value) for name, value in options.items() if name in ("sampling", "prosody")}
    found = list(OnnxVoice(folder, threads=1).stream(text, seed=3, **changes))
    assert [part.piece.ipa for part in found] == [chunk.parts[0].ipa for chunk in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.finish_reason == theirs.parts[0].finish_reason
        np.testing.assert_allclose(ours.samples, theirs.samples.numpy(), atol=atol, rtol=0)


def without(missing: set[str], *arguments: object) -> subprocess.CompletedProcess:
    """Runs onnx_voice.py in a process where some modules cannot be imported."""
    code = WITHOUT.format(missing=missing, root=str(ROOT), arguments=[str(one) for one in arguments])
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)


@pytest.mark.parametrize("hidden", [False, True], ids=["codes", "hidden"])
def test_onnx_files_of_a_token_voice_say_the_same(own_chain, hidden, caplog):
    caplog.set_level(logging.INFO)
    if hidden:
        train_hidden()
    run_script("export", "-m", "tiny", "-o", "voices/tiny", "--onnx")
    assert {path.stem for path in Path("voices/tiny").glob("*.onnx")} == {"lm", "decoder", "vocoder"}
    assert caplog.text.count("the greatest difference from PyTorch is") == 3
    for sampling in (Sampling(), Sampling(temperature=0), Sampling(temperature=1.5, top_k=0, top_p=0.9)):
        assert_onnx_says_the_same("voices/tiny", sampling=sampling)
    missing = {"torch", "transformers", "phonemizer", "sentencex", "pydantic"}
    assert without(missing, "-m", "voices/tiny", "--ipa", IPA, "--seed", 5, "-o", "ipa.wav").returncode == 0
    said = without({"phonemizer"}, "-m", "voices/tiny", "--text", TEXT, "-o", "text.wav").stderr
    assert "ValueError: text needs phonemizer" in said
    assert "which is not installed: pip install -r requirements-onnx.txt, or give IPA (--ipa)" in said
    samples, _ = soundfile.read("ipa.wav", dtype="float32")
    expected = Synthesizer("voices/tiny").speak(IPA, input_type="ipa", seed=5, retries=0).samples.numpy()
    np.testing.assert_allclose(samples, expected, atol=2e-4)
    with pytest.raises(ValueError, match="a language model decides for itself: rate would change nothing"):
        OnnxVoice("voices/tiny").stream(TEXT, prosody={"rate": 2.0})


def test_onnx_files_of_an_aligned_voice_say_the_same(aligned_chain, capsys):
    """With a flow decoder; and the files of a voice are made of its own weights."""
    export(precision="fp16")
    run_script("export", "-m", "voices/fp16", "-o", "voices/onnx", "--onnx")
    shutil.rmtree("checkpoints")
    Path("words.txt").unlink()
    for name in ("aligned.safetensors", "vocoder.safetensors"):
        assert Path("voices/onnx", name).read_bytes() == Path("voices/fp16", name).read_bytes()
    assert_onnx_says_the_same("voices/onnx", text=TEXT + " Zyx.")
    assert_onnx_says_the_same("voices/onnx", prosody=Prosody(1.4, 3, -2), sampling=Sampling(temperature=0.3))
    arguments = ["-m", "voices/onnx", "--text", "Zyx.", "--rate", 0.8, "-o", "new/text.flac"]
    assert without({"torch", "transformers"}, *arguments).returncode == 0
    assert soundfile.info("new/text.flac").duration > 0.05
    voice = OnnxVoice("voices/onnx")
    for options, complaint in (({"prosody": {"rate": 9.0}}, "rate must be 0.25 to 4, not 9"),
                               ({"speaker": "nobody"}, "speaker 'nobody' is not among those this model learned"),
                               ({"language": "nl"}, "language 'nl' is not among those this model learned: de, en-us")):
        with pytest.raises(ValueError, match=complaint):
            voice.stream(TEXT, **options)
    with pytest.raises(SystemExit):
        run_script("onnx_voice", "-m", "voices/onnx", "--ipa", IPA, "-o", "a.txt")
    assert "a.txt: cannot be written" in capsys.readouterr().err
    Path("voices/onnx/vocoder.onnx").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"vocoder\.onnx: damaged, or of another voice than onnx\.json beside it"):
        OnnxVoice("voices/onnx")
    Path("voices/onnx/vocoder.onnx").unlink()
    with pytest.raises(ValueError, match=r"vocoder\.onnx: missing; export the voice again with --onnx"):
        OnnxVoice("voices/onnx")


def test_an_autoregressive_decoder_has_no_onnx_files(aligned_chain, capsys):
    write_aligned("autoregressive")
    with pytest.raises(SystemExit):
        run_script("export", "-m", "tiny", "-o", "voices/tiny", "--onnx")
    assert "error: an autoregressive aligned.decoder makes its mel in a loop" in capsys.readouterr().err
    assert not list(Path("voices").iterdir())
