import pytest
import torch

from config import AudioConfig, FSQConfig, MelCodecConfig
from mel_processing import frames_for, log_mel
from models.codec import MelCodec

AUDIO = AudioConfig(sample_rate=8000, n_fft=256, win_length=256, hop_length=64, n_mels=20)
BOTH_PADDINGS = pytest.mark.parametrize("padding", ["same", "center"])


def make_codec(audio: AudioConfig = AUDIO, seed: int = 0, **changes) -> MelCodec:
    fsq = FSQConfig(levels=[5, 4], n_codebooks=2)
    sizes = {"stride": 4, "bottleneck": fsq, "hidden_size": 16, "encoder_layers": 2, "decoder_layers": 2}
    torch.manual_seed(seed)
    codec = MelCodec(MelCodecConfig(**(sizes | changes)), audio, n_speakers=3)
    for parameter in codec.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return codec.eval()


def waves(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(length, generator=generator) for length in lengths]


@BOTH_PADDINGS
@pytest.mark.parametrize("stride", [1, 3, 4])
def test_a_padded_clip_gets_the_codes_it_gets_alone(padding, stride):
    codec = make_codec(AUDIO.model_copy(update={"padding": padding}), stride=stride)
    clips = waves(5000, 900, 64, 3333)
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    codes, lengths = codec.encode(batch, torch.tensor([len(clip) for clip in clips]))
    assert len(set(codes.flatten().tolist())) > 5
    for clip, clip_codes, length in zip(clips, codes, lengths.tolist(), strict=True):
        alone, alone_lengths = codec.encode(clip[None])
        assert length == alone_lengths[0] == alone.shape[2] == codec.frames_for(len(clip))
        assert torch.equal(clip_codes[:, :length], alone[0])


def test_encode_gives_the_codes_that_training_sees():
    codec, wave = make_codec(), waves(64 * 40)[0][None]
    output = codec(log_mel(wave, AUDIO), torch.tensor([1]))
    assert torch.equal(codec.encode(wave)[0], output.codes)
    assert output.codes.shape == (1, 2, 10)
    assert output.mel.shape == (1, 20, 40)


def test_the_decoder_gives_from_codes_what_training_gave():
    codec, wave, speaker = make_codec(), waves(64 * 40)[0][None], torch.tensor([2])
    output = codec(log_mel(wave, AUDIO), speaker)
    mel = codec.decoder(output.codes, torch.tensor([10]), speaker, torch.zeros(1), 40)
    torch.testing.assert_close(mel, output.mel)
    other = codec.decoder(output.codes, torch.tensor([10]), torch.tensor([0]), torch.zeros(1), 40)
    assert (mel - other).abs().max() > 1e-3


def test_a_padded_clip_of_codes_gives_the_mel_it_gives_alone():
    decoder = make_codec().decoder
    codes = torch.randint(20, (3, 2, 12), generator=torch.Generator().manual_seed(0))
    lengths, speaker = torch.tensor([12, 1, 7]), torch.tensor([0, 1, 2])
    together = decoder(codes, lengths, speaker, torch.zeros(3), 48)
    for i, length in enumerate(lengths.tolist()):
        clip = slice(i, i + 1)
        alone = decoder(codes[clip, :, :length], lengths[clip], speaker[clip], torch.zeros(1), 4 * length)
        torch.testing.assert_close(together[i : i + 1, :, : 4 * length], alone, atol=1e-5, rtol=0)


def test_a_window_of_codes_gives_the_frames_of_the_whole():
    decoder, zero = make_codec().decoder, torch.zeros(1, dtype=torch.long)
    codes = torch.randint(20, (1, 2, 60), generator=torch.Generator().manual_seed(0))
    whole = decoder(codes, torch.tensor([60]), zero, torch.zeros(1), 240)
    reach = 2 * 3  # two blocks with a kernel of 7
    for first_frame in (101, 100, 103):
        first_code = first_frame // 4 - reach
        window = codes[:, :, first_code : first_code + 30]
        start = torch.tensor([float(first_frame - 4 * first_code)])
        part = decoder(window, torch.tensor([30]), zero, start, 40)
        torch.testing.assert_close(part, whole[:, :, first_frame : first_frame + 40], atol=1e-5, rtol=0)


def test_frame_rate_and_sizes():
    codec = make_codec(stride=3)
    assert codec.frame_rate == pytest.approx(8000 / 64 / 3)
    assert (codec.codebook_size, codec.n_codebooks, codec.sample_rate) == (20, 2, 8000)
    for samples in (64, 65, 191, 192, 6400):
        assert codec.frames_for(samples) == -(-frames_for(samples, AUDIO) // 3)


def test_the_fingerprint_is_of_all_that_decides_the_codes_and_of_nothing_else():
    first = make_codec().fingerprint
    assert make_codec().fingerprint == first
    others = [make_codec(seed=1), make_codec(AUDIO.model_copy(update={"f_max": 3500.0})), make_codec(stride=2),
              make_codec(bottleneck=FSQConfig(levels=[4, 5], n_codebooks=2))]
    codec = make_codec()
    with torch.no_grad():
        codec.decoder.project_out.weight += 1
        codec.decoder.speaker.weight += 1
    assert codec.fingerprint == first
    with torch.no_grad():
        codec.encoder[1].dwconv.bias[3] += 1e-6
    others.append(codec)
    fingerprints = {first, *(other.fingerprint for other in others)}
    assert len(fingerprints) == 6
