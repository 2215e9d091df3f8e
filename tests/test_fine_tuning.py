"""Weights of a network for other speakers and languages."""

from pathlib import Path

import pytest
import torch
from conftest import run_script, write_config

from checkpoints import read_checkpoint
from config import load_config
from fine_tuning import renamed_rows
from train_voice import check_base, training_stages

THEIRS = {"speakers": ["ann", "bob"], "languages": ["de", "en"]}
OURS = {"speakers": ["bob", "cleo"], "languages": ["en"]}


def test_rows_go_by_name_and_new_names_begin_at_the_mean():
    weights = {
        "encoder.speaker.weight": torch.tensor([[1.0, 2.0], [3.0, 6.0]]),
        "language_embedding.weight": torch.tensor([[1.0], [5.0]]),
        "speaker.weight": torch.tensor([[9.0], [1.0], [3.0]]),  # an aligner's first row is the unknown speaker
        "speaker.bias": torch.tensor([1.0]), "symbols.weight": torch.eye(2),
    }
    adapted = renamed_rows(weights, THEIRS, OURS)
    assert adapted["encoder.speaker.weight"].tolist() == [[3.0, 6.0], [2.0, 4.0]]
    assert adapted["language_embedding.weight"].tolist() == [[5.0]]
    assert adapted["speaker.weight"].tolist() == [[9.0], [3.0], [2.0]]
    assert all(adapted[name] is weights[name] for name in ("speaker.bias", "symbols.weight"))
    assert renamed_rows(weights, {}, OURS) == weights  # a network without names
    same = renamed_rows(weights, THEIRS, THEIRS)
    assert all(torch.equal(same[name], value) for name, value in weights.items())


def test_a_codec_goes_on_with_another_speaker(own_chain):
    """The demo's three speakers become bruno and a new one."""
    for part in ("train", "validation"):
        path = Path(f"data/{part}_ipa.txt")
        lines = [line.replace("|lucia|", "|nora|") for line in path.read_text().splitlines() if "|ella|" not in line]
        path.write_text("\n".join(lines) + "\n")
    source = read_checkpoint("checkpoints/tiny/codec/G_step4.pth")
    config = write_config(train__codec={"learning_rate": 1e-9, "ema_decay": 0.0})
    run_script("train_codec", "-c", config, "-m", "two", "--max-steps", 1, "--weights-from", "checkpoints/tiny/codec/"
               "G_step4.pth")
    tuned = read_checkpoint("checkpoints/two/codec/G_step1.pth")
    assert tuned["speakers"] == ["bruno", "nora"]
    table, base = tuned["weights"]["decoder.speaker.weight"], source["ema"]["decoder.speaker.weight"]
    torch.testing.assert_close(table, torch.stack([base[source["speakers"].index("bruno")], base.mean(0)]))


def test_the_stages_that_a_voice_has_start_from_it(chain, tmp_path):
    base = Path(__file__).parents[1] / "voices/default"
    config = load_config(Path(__file__).parents[1] / "configs/fine_tune.json")
    check_base(config, base)
    commands = [stage.command for stage in training_stages(config, tmp_path / "config.json", "anna", base)]
    started = {command[0] for command in commands if command[-2:] == ["--weights-from", str(base)]}
    assert started == {"train_aligned.py", "train_vocoder.py"}
    assert [command[0] for command in commands] == ["align.py", "train_aligned.py", "preprocess_mels.py",
                                                    "train_vocoder.py"]
    with pytest.raises(ValueError, match="default: was trained with another aligned section than this config's"):
        check_base(load_config("config.json"), base)
    with pytest.raises(ValueError, match=r"no exported voice, it has no model\.json"):
        check_base(config, tmp_path)
