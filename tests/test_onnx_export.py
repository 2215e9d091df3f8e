"""Networks as ONNX files, against PyTorch, at lengths that they were not traced with."""

import onnx
import pytest
import torch
from test_decoding import EVERY
from test_token_lm import make_lm

from config import AudioConfig, HarmonicVocosConfig, MultibandISTFTConfig, VocosConfig
from models.vocoder import build_vocoder
from onnx_export import files
from onnx_export.files import add_graph
from onnx_export.graphs import LanguageModel, language_model_graph, vocoder_graph

VOCODERS = {
    "multiband": (MultibandISTFTConfig(hidden_size=8, resblock_kernel_sizes=[3], resblock_dilations=[1]), {}),
    "vocos, centred": (VocosConfig(hidden_size=8, intermediate_size=8, n_layers=1), {"padding": "center"}),
    "harmonic": (HarmonicVocosConfig(hidden_size=8, intermediate_size=8, n_layers=1), {}),
}


@pytest.mark.parametrize(("config", "audio"), VOCODERS.values(), ids=VOCODERS)
def test_every_vocoder(config, audio, tmp_path):
    torch.manual_seed(0)
    vocoder = build_vocoder(config, AudioConfig(**audio))
    vocoder.remove_weight_norm()
    vocoder = vocoder.eval().requires_grad_(False)
    mels = [torch.randn(1, 80, n_frames) - 5 for n_frames in (9, 2, 40)]
    if isinstance(config, HarmonicVocosConfig):  # half of the frames voiced
        torch.nn.init.normal_(vocoder.f0_head.weight)
        logits = vocoder(mels[2]).f0_logits
        vocoder.f0_head.bias[0] += (logits[..., 1:].logsumexp(-1) - logits[..., 0]).median()
    assert 0 < add_graph(tmp_path, vocoder_graph(vocoder, mels)).difference < 1e-4
    if isinstance(config, HarmonicVocosConfig):
        assert 15 < (vocoder.f0_bins.estimate(vocoder(mels[2]).f0_logits) > 0).sum() < 25


@pytest.mark.parametrize("settings", [EVERY["gpt2"], EVERY["grouped"]], ids=["gpt2", "grouped"])
def test_language_models(settings, tmp_path):
    lm = make_lm(2, **settings).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(5, (13, 2), generator=generator)
    graph = language_model_graph(LanguageModel(lm), positions[:4], positions[4:], [3, 1, 8])
    assert 0 < add_graph(tmp_path, graph).difference < 1e-5


def test_half_precision_is_kept_where_it_is_exact(tmp_path):
    torch.manual_seed(0)
    vocoder = build_vocoder(VocosConfig(hidden_size=64, intermediate_size=64, n_layers=2), AudioConfig()).eval()
    vocoder.requires_grad_(False).backbone.half().float()
    assert add_graph(tmp_path, vocoder_graph(vocoder, [torch.randn(1, 80, 9)])).difference < 1e-5
    stored = {tuple(one.dims): one.data_type for one in onnx.load(tmp_path / "vocoder.onnx").graph.initializer}
    assert stored[64, 7, 80] == stored[64, 64] == onnx.TensorProto.FLOAT16
    assert stored[64, 1026] == onnx.TensorProto.FLOAT


def test_a_file_that_gives_something_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "TOLERANCE", 0.0)
    vocoder = build_vocoder(VOCODERS["vocos, centred"][0], AudioConfig()).eval().requires_grad_(False)
    with pytest.raises(ValueError, match=r"vocoder\.onnx: wave .* is not what PyTorch gives"):
        add_graph(tmp_path, vocoder_graph(vocoder, [torch.randn(1, 80, 9)]))
