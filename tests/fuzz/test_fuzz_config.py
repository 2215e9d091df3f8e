"""Configs: real ones with wrong values, names and bytes. What is accepted can be built."""

import json
from collections.abc import Callable

import pytest
import torch
from fuzzing import ROOT, changed_json, damaged, places, tried
from hypothesis import given
from hypothesis import strategies as st

import models
from config import Config, MelCodecConfig, load_config
from models import vocoder
from models.codec import MelCodec
from models.discriminators import build_discriminators

REAL = {path.name: path.read_bytes() for path in sorted((ROOT / "configs").glob("*.json"))}
CODEC = {"fingerprint": "0123", "n_codebooks": 2, "codebook_size": 16, "frame_rate": 20.0}
CHECKPOINT = {"text": {"symbols": ["a"] * 9}, "codec": CODEC, "speakers": ["ella"], "languages": ["de"]}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("config") / "config.json"


def written(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


@given(st.data())
def test_values(path, data):
    source = json.loads(data.draw(st.sampled_from(list(REAL.values()))))
    path.write_bytes(written(data.draw(changed_json(source))))
    tried(load_config, path, names=path)


@given(st.data())
def test_bytes(path, data):
    path.write_bytes(data.draw(damaged(data.draw(st.sampled_from(list(REAL.values()))))))
    tried(load_config, path, names=path)


def with_values(module: type) -> Callable:
    """A module whose making looks at its values, for which "meta" has none."""

    def build(*arguments, **options):
        with torch.device("cpu"):
            return module(*arguments, **options)

    return build


def build_networks(config: Config) -> None:
    """Every network of a config, without memory for its weights."""
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        for name in ("ISTFT", "PQMF"):
            patch.setattr(vocoder, name, with_values(getattr(vocoder, name)))
        if isinstance(config.codec, MelCodecConfig):
            MelCodec(config.codec, config.audio, 2)
        models.build_token_lm(config, CHECKPOINT)
        models.build_aligner(config, CHECKPOINT)
        models.build_aligned_tts(config, CHECKPOINT)
        models.build_wave_generator(config, CHECKPOINT)
        build_discriminators(config.discriminators)


@given(st.sampled_from(sorted(REAL)), st.data())
def test_what_is_accepted_can_be_built(path, name, data):
    config = json.loads(REAL[name])
    networks = load_config(ROOT / "configs" / name).model_dump(mode="json", exclude={"data", "train", "text"})
    path.write_bytes(written({**config, **data.draw(changed_networks(networks))}))
    accepted = tried(load_config, path, names=path)
    if accepted is not None and not accepted.llm.pretrained:
        tried(build_networks, accepted)


@st.composite
def changed_networks(draw: st.DrawFn, networks: dict) -> dict:
    """Sections with one number, or a list of them, exchanged."""
    numbers = [place for place in places(networks) if place and place[-1] != "kind"]
    *parents, last = draw(st.sampled_from(numbers))
    section = networks
    for key in parents:
        section = section[key]
    section[last] = draw(st.integers(1, 4096) | st.sampled_from([
        0, 1, 2, 3, 5, 7, 63, 1000, 1024, 10**5, 2**31, 2**62, 10**300, 0.5, 1e300, [], [1], [0], [2, 3], [10**6] * 3,
        None, True,
    ]))
    return networks
