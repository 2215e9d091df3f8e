"""The one codec interface, EnCodec's and ours under the same checks; which codec is loaded, and which refused."""

from pathlib import Path

import pytest
import torch
from test_codec import make_codec, waves
from tiny_encodec import save_tiny_encodec

from checkpoints import write_checkpoint
from config import AudioConfig, EncodecConfig, FSQConfig, GaussianConfig, MelCodecConfig, RVQConfig, parse_config
from mel_processing import frames_for, log_mel, resample
from models import Codec, codec_data, load_codec
from models.codec import MelCodec
from models.encodec import Encodec

AUDIO = AudioConfig(sample_rate=8000, n_fft=256, win_length=256, hop_length=64, n_mels=20)
KINDS = ["fsq", "rvq", "encodec"]
DATA = {"training_filelist": "train.txt", "validation_filelist": "validation.txt"}


@pytest.fixture(params=KINDS)
def codec(request, tmp_path):
    if request.param == "encodec":
        return Encodec(EncodecConfig(path=str(save_tiny_encodec(tmp_path)), bandwidth=1.5), AUDIO).eval()
    if request.param == "fsq":
        return make_codec()
    codec = make_codec(bottleneck=RVQConfig(n_codebooks=3, codebook_size=8, latent_size=6))
    codec.train()(log_mel(torch.stack(waves(6400, 6400)), AUDIO), torch.tensor([0, 1]))  # starts the codebooks
    return codec.eval()


def test_it_has_what_the_interface_names(codec):
    for name in [*Codec.__annotations__, "frames_for", "encode", "decode_mel"]:
        assert hasattr(codec, name), name
    assert codec.gives_codes
    assert codec_data(codec) == {name: getattr(codec, name) for name in
                                 ("fingerprint", "n_codebooks", "codebook_size", "frame_rate")}
    assert len(codec.fingerprint) == 16
    assert codec.fingerprint == codec.fingerprint


def test_codes_are_whole_numbers_of_the_codebooks_at_the_frame_rate(codec):
    samples = 3 * codec.sample_rate
    codes, lengths = codec.encode(0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0)))
    assert codes.shape == (2, codec.n_codebooks, codec.frames_for(samples))
    assert codes.dtype == torch.long
    assert codes.min() >= 0
    assert codes.max() < codec.codebook_size
    assert len(codes.unique()) > 2
    assert lengths.tolist() == [codec.frames_for(samples)] * 2
    assert codes.shape[2] == pytest.approx(3 * codec.frame_rate, abs=1)


def test_a_padded_clip_gives_codes_and_mel_as_alone(codec):
    clips = waves(7000, 2500, 4000)
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    codes, lengths = codec.encode(batch, torch.tensor([len(clip) for clip in clips]))
    speaker = torch.tensor([0, 1, 2])
    mel, mel_lengths = codec.decode_mel(codes, lengths, speaker)
    assert mel.shape[:2] == (3, AUDIO.n_mels)
    assert mel.shape[2] == mel_lengths.max()
    for i, clip in enumerate(clips):
        assert lengths[i] == codec.frames_for(len(clip))
        alone, alone_length = codec.encode(clip[None])
        assert torch.equal(alone[0], codes[i, :, : lengths[i]])
        mel_alone, mel_length = codec.decode_mel(alone, alone_length, speaker[i : i + 1])
        assert mel_length[0] == mel_lengths[i] == mel_alone.shape[2]
        torch.testing.assert_close(mel[i, :, : mel_lengths[i]], mel_alone[0], atol=1e-4, rtol=0)


def test_the_mel_is_as_long_as_the_codes(codec):
    samples = 2 * codec.sample_rate
    codes, lengths = codec.encode(0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(0)))
    _, mel_lengths = codec.decode_mel(codes, lengths, torch.tensor([0]))
    seconds = int(lengths[0]) / codec.frame_rate
    assert mel_lengths.tolist() == [pytest.approx(seconds * AUDIO.frame_rate, abs=1)]


def test_encodecs_mel_is_that_of_its_wave_at_the_configs_rate(tmp_path):
    codec = Encodec(EncodecConfig(path=str(save_tiny_encodec(tmp_path)), bandwidth=1.5), AUDIO).eval()
    codes = torch.randint(16, (1, 5, 30), generator=torch.Generator().manual_seed(0))
    wave = resample(codec.decode(codes)[0], 24000, 8000)
    mel, lengths = codec.decode_mel(codes, torch.tensor([30]), torch.tensor([0]))
    torch.testing.assert_close(mel, log_mel(wave[None], AUDIO))
    assert lengths.tolist() == [frames_for(len(wave), AUDIO)]


def save_codec(codec: MelCodec, config, **content) -> None:
    content = {"stage": "codec", "step": 1, "weights": codec.state_dict(), "config": config.model_dump(),
               "speakers": ["ann", "bob", "eve"]} | content
    write_checkpoint(content, Path("checkpoints/m/codec/G_step1.pth"))


def config_of(bottleneck):
    sizes = {"kind": "mel", "hidden_size": 16, "encoder_layers": 2, "decoder_layers": 2}
    codec = sizes | {"bottleneck": bottleneck.model_dump()}
    return parse_config({"data": DATA, "audio": AUDIO.model_dump(), "codec": codec,
                         "vocoder": {"kind": "vocos"}}, "test")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("bottleneck", [FSQConfig(levels=[5, 4], n_codebooks=2),
                                        RVQConfig(n_codebooks=3, codebook_size=8, latent_size=6)], ids=["fsq", "rvq"])
@pytest.mark.parametrize("n_symbols", [0, 7])
def test_a_trained_codec_comes_back_with_and_without_its_ctc_head(folder, bottleneck, n_symbols):
    config = config_of(bottleneck)
    torch.manual_seed(0)
    codec = MelCodec(config.codec, AUDIO, 3, n_symbols)
    codec(log_mel(torch.stack(waves(6400, 6400)), AUDIO), torch.tensor([0, 1]))
    save_codec(codec, config, **({"text": {"frontend": "ipa", "symbols": list("abcdefg")}} if n_symbols else {}))
    loaded = load_codec(config, "m")
    assert loaded.speakers == ["ann", "bob", "eve"]
    assert loaded.fingerprint == codec.fingerprint
    wave = waves(5000)[0][None]
    assert torch.equal(loaded.encode(wave)[0], codec.eval().encode(wave)[0])
    if isinstance(bottleneck, RVQConfig):
        codebook = loaded.bottleneck.residual.layers[1]._codebook
        codebook.embed[0, 2, 3] += 1e-4
        assert loaded.fingerprint != codec.fingerprint
        codebook.embed[0, 2, 3] = codec.bottleneck.residual.layers[1]._codebook.embed[0, 2, 3]
        codebook.cluster_size += 1  # which decides no code
        assert loaded.fingerprint == codec.fingerprint


def test_a_gaussian_codec_gives_latents_and_is_refused_where_codes_are_needed(folder):
    config = config_of(GaussianConfig(latent_size=5))
    torch.manual_seed(0)
    codec = MelCodec(config.codec, AUDIO, 3)
    save_codec(codec, config)
    with pytest.raises(ValueError, match=r"codec\.bottleneck is gaussian: it gives latents, and codes are needed here"):
        load_codec(config, "m")
    loaded = load_codec(config, "m", needs_codes=False)
    assert not loaded.gives_codes
    with pytest.raises(ValueError, match="gives latents, not codes: use encode_latents"):
        loaded.encode(waves(5000)[0][None])
    clips = waves(5000, 900)
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    latents, lengths = loaded.encode_latents(batch, torch.tensor([5000, 900]))
    assert latents.shape == (2, 5, loaded.frames_for(5000))
    alone, _ = loaded.encode_latents(clips[1][None])
    torch.testing.assert_close(latents[1:, :, : lengths[1]], alone)
    mel = loaded.decoder.from_latents(latents, torch.tensor([0, 1]))
    assert mel.shape == (2, AUDIO.n_mels, 4 * latents.shape[2])


def test_latents_of_a_codec_with_codes_are_what_its_decoder_reads():
    codec, wave = make_codec(), waves(5000)[0][None]
    codes, _ = codec.encode(wave)
    torch.testing.assert_close(codec.encode_latents(wave)[0], codec.bottleneck.dequantise(codes))


def test_another_config_than_the_trained_one_is_refused(folder):
    config = config_of(FSQConfig(levels=[5, 4], n_codebooks=2))
    save_codec(MelCodec(config.codec, AUDIO, 3), config)
    with pytest.raises(ValueError, match="was trained with another codec section"):
        load_codec(config_of(FSQConfig(levels=[4, 5], n_codebooks=2)), "m")
    assert isinstance(config.codec, MelCodecConfig)
