import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_encodec import save_tiny_encodec
from torch import nn
from torch.nn.utils import weight_norm
from transformers import EncodecConfig as HubConfig

from config import EncodecConfig
from models.encodec import ORIGINAL_FILE, Encodec


def encodec(folder, bandwidth=3.0) -> Encodec:
    return Encodec(EncodecConfig(path=str(folder), bandwidth=bandwidth))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_encodec(tmp_path_factory.mktemp("encodec") / "hub")


@pytest.fixture(scope="module")
def codec(folder):
    return encodec(folder)


# A reference EnCodec 24 kHz, written from the paper and the names in Meta's file, sharing nothing with the hub's.

class Norm(nn.Module):
    """Gives a convolution the name it has in the original: `conv.conv` or `convtr.convtr`."""

    def __init__(self, name, convolution):
        super().__init__()
        self.name = name
        self.add_module(name, weight_norm(convolution))

    def forward(self, x):
        return getattr(self, self.name)(x)


class Conv(nn.Module):
    def __init__(self, n_in, n_out, kernel, stride=1):
        super().__init__()
        self.conv = Norm("conv", nn.Conv1d(n_in, n_out, kernel, stride))
        self.kernel, self.stride = kernel, stride

    def forward(self, x):
        right = math.ceil(x.shape[2] / self.stride) * self.stride - x.shape[2]
        return self.conv(F.pad(x, (self.kernel - self.stride, right), "reflect"))


class ConvTranspose(nn.Module):
    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.convtr = Norm("convtr", nn.ConvTranspose1d(n_in, n_out, 2 * stride, stride))
        self.stride = stride

    def forward(self, x):
        return self.convtr(x)[..., : -self.stride]


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.block = nn.Sequential(nn.ELU(), Conv(width, width // 2, 3), nn.ELU(), Conv(width // 2, width, 1))
        self.shortcut = Conv(width, width, 1)

    def forward(self, x):
        return self.shortcut(x) + self.block(x)


class LSTM(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.lstm = nn.LSTM(width, width, 2)

    def forward(self, x):
        x = x.permute(2, 0, 1)
        return (self.lstm(x)[0] + x).permute(1, 2, 0)


class Codebook(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("inited", torch.ones(1))
        self.register_buffer("cluster_size", torch.rand(1024))
        self.register_buffer("embed", 0.1 * torch.randn(1024, 128))
        self.register_buffer("embed_avg", torch.rand(1024, 128))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self._codebook = Codebook()


class Quantizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.vq = nn.Module()
        self.vq.layers = nn.ModuleList(Layer() for _ in range(32))

    def encode(self, x, n_codebooks):
        residual, codes = x.transpose(1, 2), []
        for layer in self.vq.layers[:n_codebooks]:
            embed = layer._codebook.embed
            distance = residual.square().sum(2, keepdim=True) - 2 * residual @ embed.T + embed.square().sum(1)
            codes.append(distance.argmin(2))
            residual = residual - embed[codes[-1]]
        return torch.stack(codes, 1)

    def decode(self, codes):
        return sum(layer._codebook.embed[k] for layer, k in zip(self.vq.layers, codes.unbind(1), strict=False))


class Reference(nn.Module):
    RATIOS = 8, 5, 4, 2

    def __init__(self):
        super().__init__()
        down, up, width = [Conv(1, 32, 7)], [Conv(128, 512, 7), LSTM(512)], 32
        for ratio in reversed(self.RATIOS):
            down += [Residual(width), nn.ELU(), Conv(width, 2 * width, 2 * ratio, ratio)]
            width *= 2
        for ratio in self.RATIOS:
            up += [nn.ELU(), ConvTranspose(width, width // 2, ratio), Residual(width // 2)]
            width //= 2
        self.encoder, self.decoder, self.quantizer = nn.Module(), nn.Module(), Quantizer()
        self.encoder.model = nn.Sequential(*down, LSTM(512), nn.ELU(), Conv(512, 128, 7))
        self.decoder.model = nn.Sequential(*up, nn.ELU(), Conv(32, 1, 7))

    @torch.no_grad()
    def encode(self, wave, n_codebooks):
        return self.quantizer.encode(self.encoder.model(wave.unsqueeze(1)), n_codebooks)

    @torch.no_grad()
    def decode(self, codes):
        return self.decoder.model(self.quantizer.decode(codes).transpose(1, 2)).squeeze(1)


def test_original_weights_give_the_original_codes_and_wave(tmp_path):
    torch.manual_seed(0)
    reference = Reference().eval()
    weights = reference.state_dict()
    # the magnitudes of weight norms start as the norms of the directions: only others show that they are used
    for name, value in weights.items():
        if name.endswith("weight_g"):
            value.mul_(1 + torch.rand_like(value))
    assert "encoder.model.13.lstm.weight_ih_l1" in weights
    assert "decoder.model.3.convtr.convtr.weight_v" in weights
    torch.save(weights, tmp_path / ORIGINAL_FILE)
    codec = encodec(tmp_path, bandwidth=6.0)
    assert (codec.n_codebooks, codec.codebook_size, codec.frame_rate, codec.sample_rate) == (8, 1024, 75.0, 24000)

    wave = 0.5 * torch.randn(2, 320 * 12)
    codes, _ = codec.encode(wave)
    assert codes.unique().numel() > 50
    assert torch.equal(codes, reference.encode(wave, 8))
    assert torch.equal(codec.decode(codes), reference.decode(codes))

    # the hub's own loader and format, from the same weights: the same codec
    codec.model.save_pretrained(tmp_path / "hub")
    hub = encodec(tmp_path / "hub", bandwidth=6.0)
    assert hub.fingerprint == codec.fingerprint
    assert all(torch.equal(value, codec.state_dict()[name]) for name, value in hub.state_dict().items())


def test_older_hub_files_load(folder, codec, tmp_path):
    weights = load_file(folder / "model.safetensors")
    older = {name.replace("parametrizations.weight.original0", "weight_g")
             .replace("parametrizations.weight.original1", "weight_v"): value for name, value in weights.items()}
    assert older.keys() != weights.keys()
    save_file(older, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert encodec(tmp_path).fingerprint == codec.fingerprint


def test_codes_of_whole_frames_are_the_hub_models(codec):
    wave = torch.randn(3, 320 * 20)
    codes, lengths = codec.encode(wave)
    assert torch.equal(codes, codec.model.encode(wave.unsqueeze(1), bandwidth=3.0).audio_codes[0])
    assert codes.dtype == torch.int64
    assert codes.shape == (3, 10, 20)
    assert lengths.tolist() == [20, 20, 20]


def test_padded_clip_gets_the_codes_it_gets_alone(codec):
    torch.manual_seed(1)
    lengths = torch.tensor([1, 319, 320, 321, 1600, 2241, 5000, 9999])
    wave = torch.randn(8, 9999)  # noise behind the clips: what lies there must not matter
    codes, code_lengths = codec.encode(wave, lengths)
    assert codes.shape[2] == codec.frames_for(9999)
    for i, length in enumerate(lengths.tolist()):
        alone, alone_length = codec.encode(wave[i : i + 1, :length])
        assert alone.shape[2] == alone_length.item() == code_lengths[i].item() == codec.frames_for(length)
        assert torch.equal(codes[i, :, : code_lengths[i]], alone[0])


def test_decode_gives_whole_frames_and_fewer_codebooks_are_allowed(codec):
    codes, _ = codec.encode(torch.randn(2, 320 * 9))
    assert codec.decode(codes).shape == (2, 320 * 9)
    assert not torch.equal(codec.decode(codes[:, :2]), codec.decode(codes))


def test_bandwidth_decides_codebooks_and_fingerprint(folder, codec):
    lower = encodec(folder, bandwidth=1.5)
    assert (lower.n_codebooks, codec.n_codebooks) == (5, 10)
    assert lower.fingerprint != codec.fingerprint
    wave = torch.randn(1, 3200)
    assert torch.equal(lower.encode(wave)[0], codec.encode(wave)[0][:, :5])


def test_fingerprint_is_of_the_weights_not_of_the_folder(codec, tmp_path):
    assert encodec(save_tiny_encodec(tmp_path / "same")).fingerprint == codec.fingerprint
    assert encodec(save_tiny_encodec(tmp_path / "other", seed=1)).fingerprint != codec.fingerprint


def test_is_frozen(codec):
    assert not codec.model.training
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path}.*download\.py encodec"):
        encodec(tmp_path)
    HubConfig().save_pretrained(tmp_path)  # a config alone does not do
    with pytest.raises(ValueError, match=r"download\.py encodec"):
        encodec(tmp_path)


def test_bandwidth_the_model_lacks_is_refused(folder):
    with pytest.raises(ValueError, match=r"codec\.bandwidth is 24\.0, the model has 1\.5, 3\.0"):
        encodec(folder, bandwidth=24.0)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_damaged_original_is_refused(tmp_path, content):
    (tmp_path / ORIGINAL_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{ORIGINAL_FILE}: damaged"):
        encodec(tmp_path)


def test_original_of_other_content_is_refused(tmp_path):
    torch.save({"encoder.model.0.conv.conv.bias": torch.zeros(32)}, tmp_path / ORIGINAL_FILE)
    with pytest.raises(ValueError, match=r"not the weights of this EnCodec.*Missing key"):
        encodec(tmp_path)
    torch.save([1, 2], tmp_path / ORIGINAL_FILE)
    with pytest.raises(ValueError, match="not a file of weights"):
        encodec(tmp_path)


def test_damaged_hub_folder_is_refused(folder, tmp_path):
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged"):
        encodec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"(model\.safetensors: damaged|config\.json: not valid JSON)"):
        encodec(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("audio_channels", 2), ("use_causal_conv", False), ("normalize", True)])
def test_models_that_cannot_keep_the_promise_are_refused(folder, tmp_path, key, value):
    settings = json.loads((folder / "config.json").read_text()) | {key: value}
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=rf"config\.json: {key} is {value}"):
        encodec(tmp_path)
