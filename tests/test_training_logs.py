import json
import os
import time

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from training_logs import Progress, RunLog, grouped, is_loss, run_names
from webpage.training_tab import duration, progress_html


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "logs" / "model" / "llm"


def write(folder, steps, **extra) -> None:
    with SummaryWriter(folder) as writer:
        for step in steps:
            for name, value in {"training/llm": 1 / step, "training/steps_per_second": 4.0,
                                "training/learning_rate": 1e-3, **extra}.items():
                writer.add_scalar(name, value, step)


def test_what_was_added_is_read_the_next_time(folder):
    log = RunLog(folder)
    folder.mkdir(parents=True)
    log.reload()
    assert log.curves() == {}
    with pytest.raises(ValueError, match="no figures there yet"):
        log.progress()
    write(folder, [1, 2])
    log.reload()
    assert log.curves()["training/llm"] == ([1, 2], [1.0, 0.5])
    write(folder, [2, 4], **{"validation/llm": 2.0})  # resumed
    log.reload()
    assert log.curves()["training/llm"] == ([1, 2, 4], [1.0, 0.5, 0.25])
    assert log.curves()["validation/llm"] == ([2, 4], [2.0, 2.0])


def test_the_last_sound_and_picture_of_each_name(folder):
    with SummaryWriter(folder) as writer:
        for step in (5, 10):
            writer.add_audio("generated", torch.zeros(1, 100 * step), step, 22050)
            writer.add_image("mel", torch.zeros(3, 4, 4), step)
    log = RunLog(folder)
    log.reload()
    (sound,), (picture,) = log.sounds(), log.pictures()
    assert (sound.name, sound.step, picture.name, picture.step) == ("generated", 10, "mel", 10)
    assert sound.content.startswith(b"RIFF")
    assert len(sound.content) == 44 + 2 * 1000
    assert picture.content.startswith(b"\x89PNG")


def test_where_a_run_is(folder):
    with SummaryWriter(folder) as writer:
        writer.add_text("config", "```json\n" + json.dumps({"train": {"llm": {"max_steps": 100}}}) + "\n```", 0)
    write(folder, [10, 20])
    log = RunLog(folder)
    log.reload()
    progress = log.progress()
    assert (progress.step, progress.max_steps, progress.ended) == (20, 100, "")
    assert progress.seconds_left == pytest.approx(20)
    assert progress.learning_rate == pytest.approx(1e-3)
    assert abs(progress.written - time.time()) < 60

    (folder / "train.log").write_text("12:00:00 stopped at step 10 of 100\n")
    assert log.progress().ended == ""  # it went on
    (folder / "train.log").write_text("stopped at step 10 of 100\nstep 20: llm 0.05\nfinished at step 20 of 20\n")
    progress = log.progress()
    assert (progress.ended, progress.max_steps, progress.seconds_left) == ("finished", 20, None)


def test_runs_by_when_they_were_written(tmp_path):
    for age, name in enumerate(["b/llm", "a/vocoder", "c"]):
        path = tmp_path / name / "events.out.tfevents.1.host"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "c" / "train.log").touch()
    assert run_names(tmp_path) == ["b/llm", "a/vocoder", "c"]
    assert run_names(tmp_path / "nothing") == []


def test_training_and_validation_of_one_name_share_a_panel():
    curve = [1], [2.0]
    panels = grouped({"training/mel": curve, "validation/mel": curve, "validation/spoken/cer": curve, "loss": curve})
    assert {name: list(panel) for name, panel in panels.items()} == {
        "mel": ["training", "validation"], "spoken/cer": ["validation"], "loss": ["loss"]}
    assert is_loss("training/mel")
    assert not is_loss("training/learning_rate")


def test_progress_is_said_as_people_read_it():
    def said(**changes):
        given = {"step": 20, "max_steps": 100, "ended": "", "steps_per_second": 0.01, "learning_rate": 1e-4,
                 "written": 1000.0}
        return progress_html(Progress(**given | changes), now=1005.0)

    assert "<b>20 of 100</b>" in said()
    assert "about 2 h 13 min, at" in said()
    assert "<b>5 s ago</b>" in said()
    assert "is it still running?" in said(written=0.0)
    assert "it has <b>finished, 5 s ago</b>" in said(ended="finished")
    assert "<progress" not in said(max_steps=None)
    assert [duration(seconds) for seconds in (-1, 59, 61, 3700, 3 * 86400)] == ["0 s", "59 s", "1 min", "1 h 1 min",
                                                                               "3 days"]
