import numpy as np
import pytest
import scipy.signal
import torch

from models.layers.convnext import ConvNeXtBlock, FrameConv, frames_ahead
from models.layers.istft import ISTFT, polar
from models.layers.pqmf import PQMF
from models.layers.resblock import MultiReceptiveField


def test_convnext_padded_clip_equals_clip_alone():
    torch.manual_seed(0)
    blocks = [ConvNeXtBlock(16, layer_scale=1.0) for _ in range(3)]
    short, long = torch.randn(1, 16, 21), torch.randn(1, 16, 40)
    batch = torch.full((2, 16, 40), 7.0)
    batch[0, :, :21], batch[1] = short[0], long[0]
    mask = (torch.arange(40) < torch.tensor([[21], [40]])).float().unsqueeze(1)
    for block in blocks:
        short, long, batch = block(short), block(long), block(batch, mask)
    torch.testing.assert_close(batch[0, :, :21], short[0])
    torch.testing.assert_close(batch[1], long[0])


def test_convnext_has_the_published_parameter_names():
    shapes = {name: tuple(p.shape) for name, p in ConvNeXtBlock(16, 24).named_parameters()}
    assert shapes == {
        "gamma": (16,), "dwconv.weight": (16, 1, 7), "dwconv.bias": (16,), "norm.weight": (16,), "norm.bias": (16,),
        "pwconv1.weight": (24, 16), "pwconv1.bias": (24,), "pwconv2.weight": (16, 24), "pwconv2.bias": (16,),
    }


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_a_convolution_hears_so_many_frames_ahead(ahead):
    conv, x = FrameConv(4, 6, 7, ahead=ahead), torch.randn(2, 4, 20, requires_grad=True)
    y = conv(x)
    padded = torch.nn.functional.pad(x, (6 - ahead, ahead))
    torch.testing.assert_close(y, torch.nn.functional.conv1d(padded, conv.weight, conv.bias))
    heard, = torch.autograd.grad(y[:, :, 10].sum(), x)
    assert heard.abs().sum((0, 1)).nonzero().flatten().tolist() == list(range(4 + ahead, 11 + ahead))


def test_a_frame_rounds_alike_in_however_many_frames_it_stands():
    torch.manual_seed(0)
    conv, x = FrameConv(80, 256, 7, ahead=3), 2 * torch.randn(1, 80, 600) - 5
    whole = conv(x)
    for T in (50, 200, 256, 257, 300):  # torch's own kernels change at 256
        assert torch.equal(conv(x[..., :T])[..., : T - 3], whole[..., : T - 3])


def test_lookahead_is_shared_out_from_the_first_layer_on():
    assert frames_ahead(None, 3) == [3, 3, 3] == frames_ahead(9, 3)
    assert frames_ahead(4, 3) == [3, 1, 0]
    assert frames_ahead(0, 2) == [0, 0]


def decibels(error: torch.Tensor, signal: torch.Tensor) -> float:
    return 10 * torch.log10(error.square().mean() / signal.square().mean()).item()


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("n_bands", [1, 2, 4, 8])
def test_pqmf_rebuilds_the_wave_in_place(n_bands, learned):
    torch.manual_seed(0)
    wave = torch.randn(2, 8192)
    pqmf = PQMF(n_bands, learned)
    rebuilt = pqmf.synthesis(pqmf.analysis(wave))
    edge = 16 * n_bands
    assert rebuilt.shape == wave.shape
    assert decibels((rebuilt - wave)[:, edge:-edge], wave) < -64


def test_pqmf_keeps_the_energy_and_sorts_it_by_frequency():
    time = torch.arange(8192)
    for band in range(4):
        wave = torch.sin(torch.pi * (band + 0.5) / 4 * time).unsqueeze(0)
        subbands = PQMF(4).analysis(wave)
        energy = 4 * subbands.square().sum(-1)[0] / wave.square().sum()
        assert energy[band] == pytest.approx(1, abs=0.03)
        assert energy.sum() - energy[band] < 1e-4


def test_pqmf_analysis_is_filtering_and_decimation():
    pqmf = PQMF(4)
    wave = np.random.default_rng(0).standard_normal(400)
    filters = pqmf.analysis_filters[:, 0].flip(1).double().numpy()
    expected = [scipy.signal.fftconvolve(wave, taps)[32:][: len(wave)][::4] for taps in filters]
    found = pqmf.analysis(torch.from_numpy(wave).float().unsqueeze(0))[0]
    np.testing.assert_allclose(found.numpy(), np.stack(expected), atol=1e-5)


def test_only_learned_synthesis_has_parameters():
    assert [name for name, _ in PQMF(4, learned=True).named_parameters()] == ["synthesis_filters"]
    assert PQMF(4).state_dict() == {}


def random_spectrum(bins: int, frames: int) -> torch.Tensor:
    torch.manual_seed(0)
    return polar(torch.randn(2, bins, frames), 10 * torch.randn(2, bins, frames))


@pytest.mark.parametrize(("n_fft", "hop_length", "win_length"), [(1024, 256, 1024), (16, 4, 16), (512, 120, 400)])
def test_istft_center_equals_torch(n_fft, hop_length, win_length):
    spectrum = random_spectrum(n_fft // 2 + 1, 12)
    spectrum[:, [0, -1]] = spectrum[:, [0, -1]].real.to(spectrum.dtype)
    expected = torch.istft(spectrum, n_fft, hop_length, win_length, torch.hann_window(win_length))
    torch.testing.assert_close(ISTFT(n_fft, hop_length, win_length, "center")(spectrum), expected)


@pytest.mark.filterwarnings("ignore:NOLA")  # the outermost samples, which are trimmed
@pytest.mark.parametrize(("n_fft", "hop_length"), [(1024, 256), (16, 4)])
def test_istft_same_equals_scipy(n_fft, hop_length):
    spectrum = random_spectrum(n_fft // 2 + 1, 20)
    window = scipy.signal.get_window("hann", n_fft)
    _, expected = scipy.signal.istft(
        spectrum.numpy() * np.float32(1 / window.sum()), window=window, noverlap=n_fft - hop_length, boundary=False
    )
    trim = (n_fft - hop_length) // 2
    wave = ISTFT(n_fft, hop_length, n_fft, "same")(spectrum)
    assert wave.shape == (2, 20 * hop_length)
    np.testing.assert_allclose(wave.numpy(), expected[:, trim : trim + 20 * hop_length], atol=2e-5)


def test_istft_undoes_the_stft():
    wave = torch.randn(2, 4096)
    edge = (512 - 128) // 2
    spectrum = torch.stft(
        torch.nn.functional.pad(wave, (edge, edge)), 512, 128, 512, torch.hann_window(512), center=False,
        return_complex=True,
    )
    torch.testing.assert_close(ISTFT(512, 128, 512, "same")(spectrum), wave, atol=1e-5, rtol=1e-5)


def test_istft_refuses_windows_with_gaps():
    with pytest.raises(ValueError, match="shorten the hop"):
        ISTFT(512, 512, 512, "same")
    with pytest.raises(ValueError, match="must be even"):
        ISTFT(512, 129, 512, "same")


def test_polar_clips_the_magnitude_and_keeps_gradients_finite():
    log_magnitude = torch.tensor([0.0, 1.0, 200.0], requires_grad=True)
    spectrum = polar(log_magnitude, torch.tensor([0.0, torch.pi / 2, 7.0]))
    torch.testing.assert_close(spectrum.abs(), torch.tensor([1.0, np.e, 100.0]))
    assert spectrum[1].real.abs() < 1e-6
    spectrum.abs().sum().backward()
    torch.testing.assert_close(log_magnitude.grad, torch.tensor([1.0, np.e, 0.0]))


def test_residual_blocks_are_a_mean_and_keep_the_length():
    torch.manual_seed(0)
    mrf = MultiReceptiveField(8, [3, 7], [1, 3])
    x = torch.randn(2, 8, 30)
    torch.testing.assert_close(mrf(x), (mrf.blocks[0](x) + mrf.blocks[1](x)) / 2)
    for block in mrf.blocks:
        for conv in block.plain:
            torch.nn.init.zeros_(conv.bias)
            conv.parametrizations.weight.original0.data.zero_()
    torch.testing.assert_close(mrf(x), x)
