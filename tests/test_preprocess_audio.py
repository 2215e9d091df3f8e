"""preprocess_audio.py on made recordings: every input layout, every rejection, loudness, splitting, resuming."""

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pyloudnorm
import pytest
import soundfile

from data_utils import read_filelist
from preprocess_audio import hold_out, preprocess
from preprocessing.clips import Options, measure_loudness
from preprocessing.recordings import find_recordings
from preprocessing.speech import find_speech, frame_levels, split_at_pauses, with_margins

RATE = 22050


def speech(seconds, rate=RATE, amplitude=0.1, seed=0):
    """Noise with the spectrum and the syllables (4 a second) of speech, roughly."""
    t = np.arange(round(seconds * rate)) / rate
    voice = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 20))
    noise = np.random.default_rng(seed).standard_normal(len(t))
    return (amplitude * (0.4 * voice + 0.1 * noise) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))).astype(np.float32)


def silence(seconds, rate=RATE):
    return np.zeros(round(seconds * rate), np.float32)


def write(path, samples, rate=RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def rejected(report):
    return {reason: [entry["recording"].rsplit("/", 1)[-1] for entry in entries]
            for reason, entries in report["rejected"].items()}


def test_speech_is_found_between_silences():
    samples = np.concatenate([silence(0.5), speech(1.0), silence(0.7), speech(2.0), silence(0.3)])
    found = find_speech(samples, RATE)
    np.testing.assert_allclose(found, [(0.5, 1.5), (2.2, 4.2)], atol=0.03)
    trimmed = with_margins([(found[0][0], found[-1][1])], found, len(samples) / RATE)
    np.testing.assert_allclose(trimmed, [(0.42, 4.28)], atol=0.03)


def test_speech_is_found_in_noise_and_clicks_are_not_speech():
    noise = 0.003 * np.random.default_rng(1).standard_normal(4 * RATE).astype(np.float32)
    noise[RATE: 3 * RATE] += speech(2.0)
    noise[RATE // 4] = 0.9
    np.testing.assert_allclose(find_speech(noise, RATE), [(1.0, 3.0)], atol=0.04)


def test_times_are_right_at_the_end_of_a_long_recording():
    samples = np.concatenate([speech(1.0), silence(118.0), speech(1.0)])
    np.testing.assert_allclose(find_speech(samples, RATE), [(0.0, 1.0), (119.0, 120.0)], atol=0.03)


def test_silence_holds_no_speech():
    assert find_speech(silence(1.0), RATE) == []
    assert find_speech(speech(1.0, amplitude=1e-4), RATE) == []


def test_frame_levels_are_rms_in_decibel():
    assert frame_levels(np.full(RATE, 0.1, np.float32), RATE) == pytest.approx(-20.0, abs=1e-4)


def test_pieces_are_cut_at_the_longest_pauses_and_keep_the_most_speech():
    # 3 s, short pause, 3 s, long pause, 7 s, then 1 s after two seconds of nothing
    stretches = [(0.0, 3.0), (3.2, 6.2), (7.2, 14.2), (16.2, 17.2)]
    pieces, left_over = split_at_pauses(stretches, 3.0, 12.0)
    assert pieces == [(0.0, 6.2), (7.2, 14.2)]
    assert left_over == [(16.2, 17.2)]
    assert split_at_pauses([(0.0, 30.0)], 3.0, 12.0) == ([], [(0.0, 30.0)])


def test_pieces_of_random_speech_are_within_limits_and_disjoint():
    rng = np.random.default_rng(0)
    starts = np.cumsum(rng.uniform(0.3, 2.5, 200) + np.r_[0.0, rng.uniform(0.2, 0.9, 199)])
    stretches = [(a, b - rng.uniform(0.2, 0.3)) for a, b in pairwise(starts)]
    stretches = [(a, b) for a, b in stretches if b > a]
    pieces, left_over = split_at_pauses(stretches, 3.0, 12.0)
    assert all(3.0 <= b - a <= 12.0 for a, b in pieces)
    assert all(a[1] < b[0] for a, b in pairwise(pieces))
    assert sum(b - a for a, b in left_over) < 0.05 * sum(b - a for a, b in stretches)


@pytest.mark.parametrize("seconds", [0.25, 0.3, 0.41, 2.0])
def test_loudness_is_pyloudnorms_and_short_clips_have_one_too(seconds):
    samples = speech(seconds)
    if seconds > 0.4:
        assert measure_loudness(samples, RATE) == pyloudnorm.Meter(RATE).integrated_loudness(samples)
    else:
        assert measure_loudness(samples, RATE) == pytest.approx(measure_loudness(speech(2.0), RATE), abs=2.0)


@pytest.fixture
def voice(tmp_path):
    """An LJSpeech-like folder with one recording of each format, at several rates."""
    folder = tmp_path / "anna"
    padded = {rate: np.concatenate([silence(0.5, rate), speech(1.5, rate), silence(0.6, rate)])
              for rate in (16000, 22050, 44100, 48000)}
    write(folder / "wavs/a.wav", padded[48000], 48000)
    write(folder / "wavs/b.flac", padded[22050], 22050)
    write(folder / "wavs/c.ogg", padded[44100], 44100)
    write(folder / "wavs/d.opus", padded[48000], 48000, format="OGG", subtype="OPUS")
    write(folder / "wavs/e.mp3", padded[16000], 16000)
    write(folder / "wavs/f.wav", np.stack([padded[22050], 0 * padded[22050]], axis=1), 22050)
    lines = ["a|Dr. One|doctor one", "b|2|two", "c|3|three", "d|4|four", "e|5|five", "f|6|six"]
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


def test_metadata_folder_with_all_formats(voice, tmp_path):
    out = tmp_path / "out"
    report = preprocess(voice, out, Options(), language="en-us", validation_fraction=0.3, jobs=2)
    clips = read_filelist(out / "filelist.txt")
    assert [(c.path.name, c.speaker, c.language, c.text) for c in clips[:2]] == [
        ("a.flac", "anna", "en-us", "doctor one"), ("b.flac", "anna", "en-us", "two"),
    ]
    assert read_filelist(out / "train.txt") + read_filelist(out / "validation.txt") == clips
    assert [c.text for c in read_filelist(out / "validation.txt")] == ["five", "six"]
    for clip in clips:
        samples, rate = soundfile.read(clip.path)
        assert (rate, samples.ndim) == (22050, 1)
        assert len(samples) / rate == pytest.approx(1.5 + 0.16, abs=0.06)
        assert pyloudnorm.Meter(rate).integrated_loudness(samples) == pytest.approx(-23, abs=0.1)
    assert report["clips"] == 6
    assert report["rejections"] == 0
    assert report["channels"] == {"1": 5, "2": 1}
    assert report["hours"] == pytest.approx(6 * 1.66 / 3600, rel=0.05)
    assert json.loads((out / "report.json").read_text()) == report
    assert "6 clips" in (out / "report.md").read_text()
    assert not list(out.rglob("*.tmp")) + list(out.rglob(".unfinished*"))


def test_loudness_stops_at_the_peak_limit(tmp_path):
    spiky = speech(2.0, amplitude=0.01)
    spiky[RATE] = 0.5
    write(tmp_path / "in/a.wav", spiky)
    report = preprocess(tmp_path / "in", tmp_path / "out", Options(loudness=-20), validation_fraction=0)
    samples, _ = soundfile.read(tmp_path / "out/clips/a.flac")
    assert np.abs(samples).max() == pytest.approx(0.95, abs=1e-3)
    assert report["peak_limited"] == ["a.flac"]


def test_every_bad_recording_is_rejected_by_name(tmp_path):
    folder = tmp_path / "bad"
    audio = folder / "audio"
    write(audio / "good.wav", speech(1.5))
    write(audio / "other.wav", speech(1.5, seed=1))
    (audio / "empty.wav").write_bytes(b"")
    write(audio / "header.wav", silence(0))
    (audio / "noise.ogg").write_bytes(b"this is no audio file" * 100)
    for suffix in ("wav", "flac", "mp3", "ogg"):
        cut = write(audio / f"cut_{suffix}.{suffix}", speech(2.0))
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    broken = speech(1.5)
    broken[100] = np.nan
    write(audio / "nan.wav", broken, subtype="FLOAT")
    write(audio / "silent.wav", silence(2.0))
    write(audio / "telephone.wav", speech(1.5, 8000), 8000)
    write(audio / "long.wav", np.concatenate([speech(7.0), silence(1.0), speech(7.0)]))
    write(audio / "short.wav", speech(0.1))
    write(audio / "loud.wav", np.clip(30 * speech(1.5), -1, 1))
    write(audio / "wordless.wav", speech(1.5))
    ids = [path.stem for path in sorted(audio.iterdir())]
    texts = {id_: f"{id_}|text of {id_}" for id_ in ids} | {"wordless": "wordless|"}
    lines = [*texts.values(), "gone|it is not there", "good|said twice"]
    (folder / "metadata.csv").write_text("\n".join(lines))

    report = preprocess(folder, tmp_path / "out", Options(), validation_fraction=0)
    assert rejected(report) == {
        "clipped": ["loud.wav"], "duplicate id": ["good.wav"], "low sample rate": ["telephone.wav"],
        "missing": ["gone"], "no text": ["wordless.wav"], "silent": ["silent.wav"], "too long": ["long.wav"],
        "too short": ["short.wav"], "truncated": ["cut_mp3.mp3", "cut_ogg.ogg", "cut_wav.wav"],
        "unreadable": ["cut_flac.flac", "empty.wav", "header.wav", "nan.wav", "noise.ogg"],
    }
    assert [c.path.name for c in read_filelist(tmp_path / "out/filelist.txt")] == ["good.flac", "other.flac"]
    assert "NaN" in next(e["detail"] for e in report["rejected"]["unreadable"] if "nan.wav" in e["recording"])
    markdown = (tmp_path / "out/report.md").read_text()
    assert all(f"/{id_}." in markdown for id_ in ids if id_ not in ("good", "other"))


def test_mild_clipping_is_reported_and_kept(tmp_path):
    write(tmp_path / "in/a.wav", np.clip(12 * speech(2.0), -1, 1))
    report = preprocess(tmp_path / "in", tmp_path / "out", Options(), validation_fraction=0)
    assert report["clipped"] == ["a.flac"]


def test_long_recordings_without_text_are_split(tmp_path):
    rng = np.random.default_rng(3)
    parts = []
    for n in range(14):
        parts += [speech(rng.uniform(1.0, 4.0), seed=n), silence(rng.uniform(0.25, 0.9))]
    parts += [speech(20.0), silence(1.0)]
    recording = np.concatenate(parts)
    write(tmp_path / "in/tape 1/side|A.wav", recording)
    report = preprocess(tmp_path / "in", tmp_path / "out", Options())
    clips = read_filelist(tmp_path / "out/filelist.txt", needs_text=False)
    lengths = [soundfile.info(c.path).duration for c in clips]
    assert len(clips) > 3
    assert all(3.0 <= seconds <= 12.0 for seconds in lengths)
    assert [c.path.name for c in clips] == [f"tape_1_side_A_{n:04d}.flac" for n in range(len(clips))]
    assert {c.text for c in clips} == {""}
    assert sum(lengths) > 0.8 * (len(recording) / RATE - 21)
    assert rejected(report) == {"no pause": ["side|A.wav"]}


def test_filelist_keeps_speakers_and_may_be_partly_without_text(tmp_path):
    write(tmp_path / "x/1.wav", speech(1.0))
    write(tmp_path / "y/1.wav", speech(1.0, seed=1))
    source = tmp_path / "all.txt"
    source.write_text("x/1.wav|anna|de|eins\ny/1.wav|bo|nl|\n")
    preprocess(source, tmp_path / "out", Options(), validation_fraction=0)
    clips = read_filelist(tmp_path / "out/filelist.txt", needs_text=False)
    assert [(c.path.name, c.speaker, c.language, c.text) for c in clips] == [
        ("x_1.flac", "anna", "de", "eins"), ("y_1.flac", "bo", "nl", ""),
    ]
    preprocess(source, tmp_path / "out", Options(), speaker="both", validation_fraction=0)
    assert {c.speaker for c in read_filelist(tmp_path / "out/filelist.txt", needs_text=False)} == {"both"}
    with pytest.raises(ValueError, match="would be overwritten"):
        preprocess(tmp_path / "out/filelist.txt", tmp_path / "out", Options())


def test_finished_clips_are_not_done_again(voice, tmp_path):
    out = tmp_path / "out"
    first = preprocess(voice, out, Options())
    times = {path: path.stat().st_mtime_ns for path in out.glob("clips/*")}
    lists = (out / "train.txt").read_text()

    write(voice / "wavs/b.flac", speech(2.0))
    (out / "clips/c.flac").unlink()
    with (out / "finished.jsonl").open("a") as file:
        file.write('{"recording": "d", "key": "interr')
    second = preprocess(voice, out, Options())
    redone = {path.name for path in out.glob("clips/*") if times[path] != path.stat().st_mtime_ns}
    assert redone == {"b.flac", "c.flac"}
    assert (out / "train.txt").read_text() == lists
    assert second["hours"] > first["hours"]

    preprocess(voice, out, Options(sample_rate=24000))
    assert {soundfile.info(path).samplerate for path in out.glob("clips/*")} == {24000}


def test_clips_of_a_recording_that_is_gone_are_removed(tmp_path):
    write(tmp_path / "in/a.wav", speech(1.0))
    write(tmp_path / "in/b.wav", speech(1.0))
    preprocess(tmp_path / "in", tmp_path / "out", Options(), validation_fraction=0)
    (tmp_path / "in/b.wav").unlink()
    preprocess(tmp_path / "in", tmp_path / "out", Options(), validation_fraction=0)
    assert [path.name for path in tmp_path.glob("out/clips/*")] == ["a.flac"]


def test_a_sentence_is_never_on_both_sides(tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"{n}.wav|sentence {n % 4}\n" for n in range(8)))
    training, validation = hold_out(read_filelist(tmp_path / "list.txt"), 0.1)
    assert [c.path.name for c in validation] == ["3.wav", "7.wav"]
    assert len(training) == 6
    with pytest.raises(ValueError, match="too few"):
        hold_out(training[:1], 0.1)


def test_metadata_problems_name_file_and_line(tmp_path):
    metadata = tmp_path / "metadata.csv"
    metadata.write_text("a|one\nno text column\nb|c|d|e\n")
    with pytest.raises(ValueError, match=r"metadata.csv: 2 line\(s\).*line 2, 3"):
        find_recordings(tmp_path, tmp_path / "out", None, None)
    metadata.write_bytes("a|Stra\xdfe".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        find_recordings(tmp_path, tmp_path / "out", None, None)
    metadata.write_text("")
    with pytest.raises(ValueError, match="holds no lines"):
        find_recordings(tmp_path, tmp_path / "out", None, None)
    with pytest.raises(ValueError, match="no such folder or filelist"):
        find_recordings(tmp_path / "nowhere", tmp_path / "out", None, None)
    with pytest.raises(ValueError, match=r"without '\|'"):
        find_recordings(tmp_path, tmp_path / "out", "a|b", None)


def test_command_line_says_in_one_line_that_nothing_is_left(tmp_path):
    write(tmp_path / "in/a.wav", silence(1.0))
    run = subprocess.run([sys.executable, "preprocess_audio.py", "-i", tmp_path / "in", "-o", tmp_path / "out"],
                         capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("error: ")
    assert "no clip is left (1 silent)" in run.stderr
    assert not (tmp_path / "out/train.txt").exists()


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match="--min-seconds 5 and --max-seconds 2"):
        Options(min_seconds=5, max_seconds=2)
