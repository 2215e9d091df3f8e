"""The figures of docs/scaling.md: the formulas, and the loader measured on a generated corpus."""

import json
import logging
import math

import pytest
from conftest import run_script, write_config

from benchmarking.networks import build_lm
from benchmarking.scaling import Rates, scale
from config import load_config


def test_what_a_corpus_takes(tmp_path):
    config = load_config(write_config(tmp_path / "config.json"))  # 2 codebooks of 16, 22050 / 1024 Hz
    figures = scale(config, 10, 2, Rates(flac_mb=80, mel_mb=40, coding=1.5, cpu_seconds=36, tflops=1, utilisation=0.5))
    rate = 22050 / 1024
    parameters = sum(p.numel() for p in build_lm(config).parameters())
    assert figures == pytest.approx({
        "hours": 10, "epochs": 2, "parameters": parameters, "positions": 36000 * (rate + 15),
        "codes": 36000 * rate * 2, "codes_gb": 36000 * rate * 2 * math.log2(16) / 8 * 1.5 / 1e9, "flac_gb": 0.8,
        "mels_gb": 0.4, "preprocessing_core_hours": 0.1,
        "gpu_hours": 6 * parameters * 36000 * (rate + 15) * 2 / 0.5e12 / 3600,
    })


def test_the_loader_is_measured_on_a_generated_corpus(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    config = write_config(data={"shard_clips": 50}, train__llm={"packing": True, "batch_size": 4})
    with caplog.at_level(logging.INFO):
        run_script("benchmarking.shards", "-c", config, "--clips", 300, "--steps", 1, "--json", "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    loader = figures["loader"]
    assert (loader["clips"], loader["sequences"], loader["shards"]) == (300, 300, 6)
    assert loader["hours"] == pytest.approx(300 * 3 / 3600, rel=0.3)
    assert len(loader["gb_resident"]) == 11
    assert min(loader["sequences_per_second"], figures["trainer"]["positions_per_second"]) > 0
    assert "300 clips" in caplog.text
