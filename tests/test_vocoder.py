import pytest
import torch

import mel_processing
from config import AudioConfig, HarmonicVocosConfig, MultibandISTFTConfig, VocosConfig
from losses import f0_cross_entropy, mel_l1
from mel_processing import log_mel, samples_for
from models.vocoder import build_vocoder, load_published_vocos
from prosody import fundamental_frequency

SMALL = {
    "multiband_istft": MultibandISTFTConfig(hidden_size=32, resblock_kernel_sizes=[3], resblock_dilations=[1, 3]),
    "vocos": VocosConfig(hidden_size=32, intermediate_size=96, n_layers=2),
    "harmonic_vocos": HarmonicVocosConfig(hidden_size=32, intermediate_size=96, n_layers=2),
}


@pytest.fixture(params=SMALL)
def config(request):
    return SMALL[request.param]


def voice(samples: int, sample_rate: int) -> torch.Tensor:
    """A buzz of 140 Hz with vibrato and tremolo, (1, samples)."""
    time = torch.arange(samples) / sample_rate
    phase = 2 * torch.pi * 140 * time + torch.sin(2 * torch.pi * 3 * time)
    buzz = sum(torch.sin(k * phase) / k for k in range(1, 30))
    return (0.2 * buzz * (0.6 + 0.4 * torch.sin(2 * torch.pi * 5 * time))).unsqueeze(0)


@pytest.mark.parametrize("padding", ["same", "center"])
def test_shapes(config, padding):
    audio = AudioConfig(padding=padding)
    vocoder = build_vocoder(config, audio)
    output = vocoder(torch.randn(2, audio.n_mels, 9))
    samples = samples_for(9, audio)
    assert samples == (9 if padding == "same" else 8) * 256
    assert output.wave.shape == (2, samples)
    assert output.wave.dtype == torch.float32
    if config.kind != "multiband_istft":
        assert output.subbands is None
    else:
        assert output.subbands.shape == vocoder.analysis(output.wave).shape == (2, 4, samples // 4)


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (MultibandISTFTConfig(), 13.31), (MultibandISTFTConfig(hidden_size=256), 3.42),
        (MultibandISTFTConfig(hidden_size=128), 0.90), (VocosConfig(), 13.46), (HarmonicVocosConfig(), 13.89),
    ],
)
def test_parameter_counts(config, millions):
    vocoder = build_vocoder(config, AudioConfig())
    assert sum(p.numel() for p in vocoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("upsample_rates", [[8, 8], [5, 3], [2, 2, 4]])
def test_any_upsampling_gives_whole_frames(upsample_rates):
    rate = torch.tensor(upsample_rates).prod().item()
    config = SMALL["multiband_istft"].model_copy(
        update={"upsample_rates": upsample_rates, "n_bands": 2, "n_fft": 32, "hop_length": 8}
    )
    audio = AudioConfig(hop_length=rate * 16, n_fft=4096, win_length=4096)
    assert build_vocoder(config, audio)(torch.randn(1, 80, 5)).wave.shape == (1, 5 * rate * 16)


def test_center_padding_needs_whole_subband_samples():
    config = SMALL["multiband_istft"].model_copy(
        update={"upsample_rates": [3, 3], "hop_length": 3, "n_fft": 15}
    )
    with pytest.raises(ValueError, match="multiple of"):
        build_vocoder(config, AudioConfig(hop_length=108, padding="center"))


def test_paddings_agree_where_they_overlap():
    torch.manual_seed(0)
    config = SMALL["multiband_istft"]
    same, center = (build_vocoder(config, AudioConfig(padding=padding)) for padding in ("same", "center"))
    center.load_state_dict(same.state_dict())
    mel = torch.randn(1, 80, 9)
    # a frame starts at its samples with `same` and is centred on its hop with `center`; the filters reach 32 samples
    torch.testing.assert_close(center(mel).wave[:, 32:-32], same(mel).wave[:, 160:-160])


def test_learned_synthesis_starts_as_pqmf():
    torch.manual_seed(0)
    config = SMALL["multiband_istft"]
    learned = build_vocoder(config, AudioConfig())
    fixed = build_vocoder(config.model_copy(update={"synthesis": "pqmf"}), AudioConfig())
    state = learned.state_dict()
    del state["pqmf.synthesis_filters"]
    fixed.load_state_dict(state)
    mel = torch.randn(1, 80, 9)
    assert torch.equal(learned(mel).wave, fixed(mel).wave)


def test_gradients_reach_every_parameter(config):
    torch.manual_seed(0)
    vocoder = build_vocoder(config, AudioConfig())
    output = vocoder(torch.randn(2, 80, 9), torch.full((2, 9), 150.0))
    (output.wave.square().sum() + (0 if output.f0_logits is None else output.f0_logits.square().sum())).backward()
    still = [name for name, p in vocoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_removing_weight_norm_changes_nothing():
    vocoder = build_vocoder(SMALL["multiband_istft"], AudioConfig())
    mel = torch.randn(1, 80, 9)
    before = vocoder(mel).wave
    vocoder.remove_weight_norm()
    torch.testing.assert_close(vocoder(mel).wave, before)
    assert not any("parametrizations" in name for name, _ in vocoder.named_parameters())


def test_output_depends_on_near_frames_alone(config):
    torch.manual_seed(0)
    vocoder = build_vocoder(config, AudioConfig())
    mel = torch.randn(1, 80, 60)
    changed = mel.clone()
    changed[..., 30] += 1
    f0 = torch.full((1, 60), 150.0)
    vocoder.eval()
    difference = (vocoder(mel, f0).wave != vocoder(changed, f0).wave)[0].nonzero()
    assert 18 * 256 < difference.min() < 30 * 256 < difference.max() < 43 * 256


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_finite_and_near_single_precision(config, dtype):
    torch.manual_seed(0)
    vocoder = build_vocoder(config, AudioConfig()).eval()
    mel, f0 = torch.randn(1, 80, 9), torch.full((1, 9), 150.0)
    with torch.autocast("cpu", dtype):
        output = vocoder(mel, f0)
    assert output.wave.dtype == torch.float32
    assert output.wave.isfinite().all()
    expected = vocoder(mel, f0).wave
    assert (output.wave - expected).norm() < 0.05 * expected.norm()


def test_learns_one_clip(config):
    """Mel L1 falls to less than 0.6 of its start in 50 steps."""
    torch.manual_seed(0)
    audio = AudioConfig()
    wave = voice(8192, audio.sample_rate)
    mel, f0 = log_mel(wave, audio), fundamental_frequency(wave[0], audio)[None]
    config = config.model_copy(update={"hidden_size": 64})
    vocoder = build_vocoder(config, audio)
    optimizer = torch.optim.AdamW(vocoder.parameters(), lr=5e-3, betas=(0.8, 0.99))
    history = []
    for _ in range(50):
        loss = mel_l1(log_mel(vocoder(mel, f0).wave, audio), mel)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.6 * history[0]


def test_an_untrained_harmonic_vocoder_is_in_tune():
    torch.manual_seed(0)
    audio = AudioConfig()
    vocoder = build_vocoder(SMALL["harmonic_vocos"], audio).eval()
    f0 = torch.linspace(110, 160, 172).unsqueeze(0)
    with torch.no_grad():
        vocoder.out.bias[audio.n_fft // 2 + 1 :][: audio.n_fft // 2 + 1] -= 4  # little noise
        found = fundamental_frequency(vocoder(torch.randn(1, 80, 172), f0).wave[0], audio)
    torch.testing.assert_close(found[8:-8], f0[0, 8:-8], atol=0, rtol=5e-3)


def test_a_harmonic_vocoder_learns_the_f0_and_then_needs_none():
    torch.manual_seed(0)
    audio = AudioConfig()
    wave = voice(16384, audio.sample_rate)
    mel, f0 = log_mel(wave, audio), fundamental_frequency(wave[0], audio)[None]
    vocoder = build_vocoder(SMALL["harmonic_vocos"], audio)
    optimizer = torch.optim.AdamW(vocoder.parameters(), lr=5e-3)
    for _ in range(60):
        loss = f0_cross_entropy(vocoder(mel, f0).f0_logits, vocoder.f0_bins.targets(f0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    vocoder.eval()
    with torch.no_grad():
        own, given = vocoder(mel), vocoder(mel, vocoder.f0_bins.estimate(vocoder(mel).f0_logits))
    assert torch.equal(own.wave, given.wave)
    voiced = f0 > 0
    found = vocoder.f0_bins.estimate(own.f0_logits)
    assert ((found > 0) == voiced).float().mean() > 0.9
    assert ((found / f0)[voiced & (found > 0)].log2().abs() < 0.05).float().mean() > 0.9


PUBLISHED_AUDIO = AudioConfig(sample_rate=24000, n_mels=100, padding="center", mel_scale="htk", mel_norm=None)


def published_vocos(config: VocosConfig, audio: AudioConfig) -> dict[str, torch.Tensor]:
    """Random weights under every name and shape of the published vocos-mel-24khz, at the config's size."""
    size, inner = config.hidden_size, config.intermediate_size
    shapes = {"backbone.embed.weight": (size, audio.n_mels, 7), "head.out.weight": (audio.n_fft + 2, size)}
    shapes |= {"backbone.embed.bias": (size,), "head.out.bias": (audio.n_fft + 2,)}
    for norm in ("backbone.norm", "backbone.final_layer_norm"):
        shapes |= {f"{norm}.weight": (size,), f"{norm}.bias": (size,)}
    for i in range(config.n_layers):
        block = f"backbone.convnext.{i}"
        shapes |= {
            f"{block}.gamma": (size,), f"{block}.dwconv.weight": (size, 1, 7), f"{block}.dwconv.bias": (size,),
            f"{block}.norm.weight": (size,), f"{block}.norm.bias": (size,),
            f"{block}.pwconv1.weight": (inner, size), f"{block}.pwconv1.bias": (inner,),
            f"{block}.pwconv2.weight": (size, inner), f"{block}.pwconv2.bias": (size,),
        }
    window = torch.hann_window(audio.n_fft)
    return {name: torch.randn(shape) for name, shape in shapes.items()} | {
        "head.istft.window": window,
        "feature_extractor.mel_spec.spectrogram.window": window,
        "feature_extractor.mel_spec.mel_scale.fb": mel_processing.mel_filters(audio, torch.device("cpu")).T,
    }


def test_published_vocos_loads(tmp_path):
    config = SMALL["vocos"]
    vocoder = build_vocoder(config, PUBLISHED_AUDIO)
    state = published_vocos(config, PUBLISHED_AUDIO)
    torch.save(state, tmp_path / "vocos.bin")
    load_published_vocos(vocoder, tmp_path / "vocos.bin")
    assert all(torch.equal(weight, state[name]) for name, weight in vocoder.state_dict().items())


def test_published_vocos_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "vocos.bin"
    config = SMALL["vocos"]
    state = published_vocos(config, PUBLISHED_AUDIO)
    torch.save(state, path)
    slaney = build_vocoder(config, PUBLISHED_AUDIO.model_copy(update={"mel_scale": "slaney"}))
    with pytest.raises(ValueError, match="mel_scale"):
        load_published_vocos(slaney, path)
    vocoder = build_vocoder(config, PUBLISHED_AUDIO)
    before = {name: weight.clone() for name, weight in vocoder.state_dict().items()}
    state["head.bias"] = state.pop("head.out.bias")
    state["backbone.norm.weight"] = torch.ones(7)
    torch.save(state, path)
    with pytest.raises(ValueError, match="fit the config") as error:
        load_published_vocos(vocoder, path)
    for line in ("missing: head.out.bias", "unexpected: head.bias", "norm.weight: (7,) in the file, (32,)"):
        assert line in str(error.value)
    assert all(torch.equal(weight, before[name]) for name, weight in vocoder.state_dict().items())


def test_published_vocos_that_cannot_be_read_is_one_sentence(tmp_path):
    vocoder = build_vocoder(SMALL["vocos"], PUBLISHED_AUDIO)
    (tmp_path / "text.bin").write_text("no weights")
    for name in ("missing.bin", "text.bin"):
        with pytest.raises(ValueError, match=f"{name}: not readable as weights"):
            load_published_vocos(vocoder, tmp_path / name)
