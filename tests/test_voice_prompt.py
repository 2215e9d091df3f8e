"""A recording as voice, with its words and without, in the network and in synthesis."""

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from conftest import run_script
from test_backbones import every_backbone
from test_packing import Rows
from test_token_lm import CODEBOOK_SIZE, GREEDY, N_SYMBOLS, alone, make_lm, random_batch

from config import AudioConfig
from data_utils import CodeSequences, Draw
from lm_data import RowSequences, collate_single
from mel_processing import load_audio, log_mel
from models.token_lm import CONDITIONS, TokenLM
from synthesize import load_synthesizer, loaded
from train_llm import lm_losses
from voice_prompts import nearest_speaker, read_voice_prompt


def recording(n_codebooks: int, frames: int) -> torch.Tensor:
    return torch.randint(CODEBOOK_SIZE, (n_codebooks, frames), generator=torch.Generator().manual_seed(frames))


def assert_greedy(lm: TokenLM, text, speaker, language, given, voice, generated, bound: int) -> None:
    """Every code is the most likely one after what is given and the codes before it, without a cache."""
    start = 0 if given is None else given.shape[1]
    whole = generated.codes if given is None else torch.cat([given, generated.codes], dim=1)
    ids = text[None], torch.tensor([len(text)]), whole[None], torch.tensor([whole.shape[1]]), speaker, language
    voices = {} if voice is None else {"voice": voice[None], "voice_lengths": torch.tensor([voice.shape[1]])}
    with torch.no_grad():
        logits, _ = lm(*ids, **voices)
        states = lm.states(*ids, **voices, with_frames=True).frames
    for t in range(generated.codes.shape[1]):
        for k in range(lm.n_codebooks):
            scores = logits[0, k, start + t + k]
            assert generated.codes[k, t] == scores[:CODEBOOK_SIZE].argmax()
        assert t == 0 or logits[0, 0, start + t, lm.end] <= logits[0, 0, start + t, :CODEBOOK_SIZE].max()
    ended = logits[0, 0, whole.shape[1], lm.end] > logits[0, 0, whole.shape[1], :CODEBOOK_SIZE].max()
    assert ended if generated.finish_reason == "stop" else generated.codes.shape[1] == bound
    torch.testing.assert_close(generated.states, states[0, :, start:], atol=1e-4, rtol=0)


@every_backbone
@pytest.mark.parametrize("n_codebooks", [1, 2, 4])
def test_generation_with_recordings(settings, n_codebooks):
    lm = make_lm(n_codebooks, **settings)
    with torch.no_grad():
        lm.heads[0].weight[lm.end] *= 3
    texts = [torch.arange(length) % N_SYMBOLS for length in (3, 8, 1, 5, 4)]
    prompts = [recording(n_codebooks, 6), None, recording(n_codebooks, 1), recording(n_codebooks, 40), None]
    voices = [None, None, recording(n_codebooks, 3), None, recording(n_codebooks, 12)]
    speaker, language, bounds = torch.tensor([0, 1, -1, 2, -1]), torch.tensor([0, 1, 0, 1, 1]), [9, 6, 15, 30, 11]
    made = lm.generate(texts, speaker, language, bounds, GREEDY, prompts=prompts, voices=voices, with_states=True)
    for i, generated in enumerate(made):
        one = slice(i, i + 1)
        start = 0 if prompts[i] is None else prompts[i].shape[1]
        room = 64 - lm.state_positions_for(len(texts[i]), start)
        assert_greedy(lm, texts[i], speaker[one], language[one], prompts[i], voices[i], generated, min(bounds[i], room))
        alone, = lm.generate(texts[one], speaker[one], language[one], bounds[one], GREEDY, prompts=prompts[one],
                             voices=voices[one])
        if start < 40:  # where states are wanted, the positions leave room for one frame less
            assert alone.codes.equal(generated.codes)
    plain, = lm.generate(texts[1:2], speaker[1:2], language[1:2], bounds[1:2], GREEDY)
    assert plain.codes.equal(made[1].codes)


@every_backbone
def test_voices_of_a_batch_are_those_of_clips_alone(settings):
    lm, batch = make_lm(3, **settings), random_batch(3, [5, 9, 2], [7, 1, 12])
    voices, frames = torch.stack([recording(3, 8)] * 3), torch.tensor([5, 0, 8])
    logits, _, text_logits, _ = lm(**batch, voice=voices, voice_lengths=frames, with_text=True)
    plain, _ = lm(**batch)
    for i in range(3):
        one = alone(batch, i) | {"voice": voices[i : i + 1, :, : frames[i]], "voice_lengths": frames[i : i + 1]}
        single, _, single_text, _ = lm(**one, with_text=True)
        steps, L = single.shape[2], one["text"].shape[1]
        torch.testing.assert_close(logits[i : i + 1, :, :steps], single, atol=1e-5, rtol=0)
        torch.testing.assert_close(text_logits[i : i + 1, :, :L], single_text, atol=1e-5, rtol=0)
        changed = (logits[i, :, :steps] - plain[i, :, :steps]).abs().max()
        assert changed > 1e-3 if frames[i] else changed < 1e-5


def test_the_rest_of_a_clip_learnt_by_heart_follows_its_beginning():
    lm, batch = make_lm(2, hidden_size=32), random_batch(2, [6, 9, 4], [14, 11, 12])
    optimizer = torch.optim.AdamW(lm.parameters(), 1e-2, weight_decay=0)
    for _ in range(150):
        logits, targets = lm(**batch)
        loss = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.02:
            break
    texts = [text[:length] for text, length in zip(batch["text"], batch["text_lengths"], strict=True)]
    prompts = [codes[:, :5] for codes in batch["codes"]]
    made = lm.eval().generate(texts, batch["speaker"], batch["language"], [30] * 3, GREEDY, prompts=prompts)
    for generated, codes, length in zip(made, batch["codes"], batch["code_lengths"], strict=True):
        assert generated.codes.equal(codes[:, 5:length])


def test_no_speaker_is_like_no_other():
    lm, batch = make_lm(2), random_batch(2, [4], [7])
    found = [lm(**batch | {"speaker": torch.tensor([speaker])})[0] for speaker in (-1, 0, 1, 2)]
    assert all((found[0] - other).abs().max() > 1e-3 for other in found[1:])
    with torch.no_grad():
        lm.speaker_embedding.weight.zero_()
    torch.testing.assert_close(lm(**batch)[0], found[0])


def test_a_prompt_that_leaves_no_room():
    lm, zero = make_lm(2, max_positions=30), torch.tensor([0])
    text = [torch.arange(5)]
    generated, = lm.generate(text, zero, zero, [10], GREEDY, prompts=[recording(2, 30 - CONDITIONS - 5 - 1 - 1)])
    assert generated.codes.shape == (2, 1)
    with pytest.raises(ValueError, match=r"^a text of 5 symbols and a voice of 22 frames leaves no room for "
                                         r"speech: use a shorter recording, or split the text$"):
        lm.generate(text, zero, zero, [10], GREEDY, prompts=[recording(2, 22)])
    with pytest.raises(ValueError, match="a text of 5 symbols and a voice of 24 frames leaves no room"):
        lm.generate(text, zero, zero, [10], GREEDY, voices=[recording(2, 24)])


@pytest.fixture
def synthesizer(chain):
    loaded.cache_clear()
    yield load_synthesizer("tiny")
    loaded.cache_clear()


@pytest.fixture
def reference(chain, tmp_path):
    """A second and a half of a clip, at another rate."""
    path = next(iter(sorted(chain.glob("data/**/*.wav"))))
    soundfile.write(tmp_path / "voice.wav", load_audio(path, 16000)[:24000].numpy(), 16000)
    return tmp_path / "voice.wav"


@pytest.fixture
def asked(synthesizer, monkeypatch):
    """The arguments of every call of `Decoder.generate`."""
    calls, generate = [], synthesizer.system.fast_lm.generate

    def spy(text, speaker, language, *rest, **options):
        calls.append({"text": text, "speaker": speaker.tolist(), **options})
        return generate(text, speaker, language, *rest, **options)

    monkeypatch.setattr(synthesizer.system.fast_lm, "generate", spy)
    return calls


def test_a_reference_is_the_prompt_of_every_sentence(synthesizer, reference, asked):
    speech = synthesizer.speak("One. Two.", reference=reference, reference_text="Good day.", seed=0, retries=0)
    said = synthesizer.frontend.phonemize("Good day.", "en-us")
    codes, _ = synthesizer.system.codec.encode(load_audio(reference, 22050)[None])
    call, = asked
    assert len(speech.parts) == len(call["prompts"]) == 2
    for ids, given, part in zip(call["text"], call["prompts"], speech.parts, strict=True):
        assert given.equal(codes[0])
        assert ids.tolist() == synthesizer.frontend.encode(f"{said} {part.ipa}")
    assert len(set(call["speaker"])) == 1
    assert call["speaker"][0] >= 0  # this model has not learned to be without


def test_without_its_text(synthesizer, reference, asked, caplog):
    caplog.set_level("INFO")
    first = synthesizer.speak("One.", reference=reference, speaker="bruno", seed=0)
    assert "tiny was trained without train.llm.voice_probability: it may say anything" in caplog.text
    assert asked[-1]["speaker"] == [synthesizer.speakers.index("bruno")]
    assert asked[-1]["text"][0].tolist() == synthesizer.frontend.encode(first.parts[0].ipa)
    assert asked[-1]["voices"][0].equal(synthesizer.system.codec.encode(load_audio(reference, 22050)[None])[0][0])
    assert "prompts" not in asked[-1]
    caplog.clear()
    synthesizer.system.learned_voices = True
    second = synthesizer.speak("One.", reference=reference, seed=0)
    assert asked[-1]["speaker"] == [-1]
    assert "it may say anything" not in caplog.text
    assert "comes nearest" in caplog.text
    assert len(first.samples) > 500 < len(second.samples)


def test_the_command_line_and_a_filelist(synthesizer, reference, tmp_path, asked):
    options = ["-m", "tiny", "--reference", reference, "--reference-text", "Good day.", "--seed", 1, "-o"]
    run_script("synthesize", "--text", "Hello.", *options, tmp_path / "a.wav")
    (tmp_path / "lines.txt").write_text("b.wav|Hello.\n")
    run_script("synthesize", "-i", tmp_path / "lines.txt", *options, tmp_path)
    assert load_audio(tmp_path / "a.wav", 22050).equal(load_audio(tmp_path / "b.wav", 22050))
    run_script("synthesize", "--text", "Hello.", "-m", "tiny", "-o", tmp_path / "c.wav")
    assert ["prompts" in call for call in asked] == [True, True, False]
    assert asked[0]["text"][0].equal(asked[1]["text"][0])
    run_script("synthesize", "--ipa", "həlˈoʊ", *options[:4], "--reference-text", "ɡˈʊd", "-o", tmp_path / "d.wav")
    assert synthesizer.frontend.decode(asked[-1]["text"][0].tolist()) == "ɡˈʊd həlˈoʊ"


def test_references_that_cannot_be_used(synthesizer, reference, tmp_path, capsys, chain):
    soundfile.write(tmp_path / "short.wav", np.zeros(4000), 16000)
    soundfile.write(tmp_path / "long.wav", 0.1 * np.random.default_rng(0).normal(size=16000 * 14), 16000)
    cases = {
        "short.wav: 0.25 s are too short for a voice, a reference needs 0.5 s": ["--reference", tmp_path / "short.wav"],
        "long.wav: too long, it takes 306 positions of the model's 512; use at most 11.7 s of it": [
            "--reference", tmp_path / "long.wav"],
        "gone.wav: no such file": ["--reference", tmp_path / "gone.wav"],
        "a reference's text is of use only with the reference itself": ["--reference-text", "Good day."],
    }
    for message, arguments in cases.items():
        with pytest.raises(SystemExit) as stop:
            run_script("synthesize", "-m", "tiny", "--text", "Hi.", "-o", tmp_path / "a.wav", *arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "a.wav").exists()
    synthesizer.system.fingerprint = "0123"
    del synthesizer.system.codec  # it is loaded for the first reference
    with pytest.raises(ValueError, match="other stages were trained on the codes of 0123: a reference needs that"):
        synthesizer.speak("Hi.", reference=reference)


def test_the_nearest_speaker_is_the_one_whose_mel_is_nearest(tmp_path):
    audio = AudioConfig()
    wave = 0.3 * torch.sin(torch.arange(22050) * 0.1)
    soundfile.write(tmp_path / "a.wav", wave.numpy(), 22050, subtype="FLOAT")
    mel = log_mel(wave[None], audio)[0]
    mels = [("ann", mel + 0.3), ("bob", F.pad(mel - 0.1, (0, 3))), ("cy", mel[:, :-5] + 0.2)]
    assert nearest_speaker(tmp_path / "a.wav", audio, mels) == "bob"
    assert nearest_speaker(tmp_path / "a.wav", audio, mels[::2]) == "cy"


def test_the_prompt_of_a_recording_holds_its_codes(synthesizer, reference):
    found = read_voice_prompt(reference, "ɡˈʊd", synthesizer.system.codec)
    assert found.codes.shape == (2, synthesizer.system.codec.frames_for(33075))
    assert found.ipa == "ɡˈʊd"


def test_training_teaches_to_take_the_voice_from_a_recording_alone():
    """Every voice says the three symbols in codes of its own; neither a speaker nor the words of it are given."""
    random = np.random.default_rng(0)

    def clip(voice: int) -> dict:
        symbols = random.integers(0, 3, 4)
        codes = (symbols + 3 * voice)[None]
        return {"ipa": symbols, "codes": codes, "speaker": f"{voice}", "language": "de", "path": ""}

    rows = Rows(clip(voice) for voice in range(3) for _ in range(100))
    clips = CodeSequences(rows, list, ["0", "1", "2"], ["de"])
    lm = make_lm(1, hidden_size=32, n_heads=4, backbone="qwen3").train()
    dataset = RowSequences(clips, [[i] for i in range(300)], [lm.positions_for(4, 4)] * 300, 64, 0.9, (2, 4))
    optimizer = torch.optim.AdamW(lm.parameters(), 1e-2)
    for step in range(200):
        batch = collate_single([dataset.draw(Draw(int(i), step)) for i in random.integers(0, 300, 32)])
        losses, _ = lm_losses(lm, batch)
        optimizer.zero_grad()
        losses["llm"].backward()
        optimizer.step()
    said, heard = [clip(voice) for voice in (0, 1, 2) * 5], [clip(voice) for voice in (0, 1, 2) * 5]
    made = lm.eval().generate(
        [torch.tensor(one["ipa"]) for one in said], torch.full((15,), -1), torch.zeros(15, dtype=torch.long), [8] * 15,
        GREEDY, voices=[torch.tensor(one["codes"]) for one in heard],
    )
    right = [generated.codes.tolist() == one["codes"].tolist() for generated, one in zip(made, said, strict=True)]
    assert sum(right) >= 13, float(losses["llm"])
