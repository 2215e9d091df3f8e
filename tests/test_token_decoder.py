import numpy as np
import pytest
import torch

from config import AudioConfig, TokenDecoderConfig
from models.token_decoder import TokenDecoder

RATES = pytest.mark.parametrize("code_rate", [75.0, 22050 / 256 / 4, 200.0])
PADDINGS = pytest.mark.parametrize("padding", ["same", "center"])


def make_decoder(code_rate: float, padding: str = "same") -> TokenDecoder:
    torch.manual_seed(0)
    audio = AudioConfig(n_mels=6, padding=padding)
    config = TokenDecoderConfig(hidden_size=8, n_layers=4, kernel_size=5)
    decoder = TokenDecoder(config, audio, 3, 10, code_rate, 2)
    for parameter in decoder.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return decoder.eval()


def random_codes(*shape: int) -> torch.Tensor:
    return torch.randint(10, shape, generator=torch.Generator().manual_seed(1))


@RATES
@PADDINGS
def test_codes_and_frames_meet_in_time(code_rate, padding):
    decoder = make_decoder(code_rate, padding)
    for block in (*decoder.code_blocks, *decoder.mel_blocks):
        torch.nn.init.zeros_(block.gamma)  # leaves the resampling alone
    codes, frame_seconds = random_codes(1, 3, 40), 256 / 22050
    start = 2.6
    n_frames = int(40 / code_rate / frame_seconds - start)
    found = decoder(codes, torch.tensor([40]), torch.tensor([1]), torch.tensor([start]), n_frames)[0]

    with torch.no_grad():
        embedded = sum(e.weight[codes[0, k]] for k, e in enumerate(decoder.embeddings)) + decoder.speaker.weight[1]
        seconds = (start + np.arange(n_frames) + (0.5 if padding == "same" else 0)) * frame_seconds
        centres = (np.arange(40) + 0.5) / code_rate
        resampled = np.stack([np.interp(seconds, centres, channel) for channel in embedded.T.numpy()], axis=1)
        expected = decoder.project_out(decoder.norm(torch.from_numpy(resampled).float())).T
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@RATES
@PADDINGS
def test_a_window_of_codes_gives_the_frames_of_the_whole(code_rate, padding):
    decoder = make_decoder(code_rate, padding)
    codes, zero = random_codes(1, 3, 200), torch.zeros(1, dtype=torch.long)
    per_frame = code_rate * 256 / 22050
    n_frames = int(200 / per_frame)
    whole = decoder(codes, torch.tensor([200]), zero, torch.zeros(1), n_frames)
    # two blocks with a kernel of 5 at either rate, and the neighbour of the interpolation
    context, edge = 5, 4
    first_frame = int(60 / per_frame)
    for shift in range(4):
        first_code = int((first_frame + shift) * per_frame) - context
        window = codes[:, :, first_code : first_code + 60]
        start = torch.tensor([first_frame + shift - first_code / per_frame])
        count = int(50 / per_frame)
        part = decoder(window, torch.tensor([60]), zero, start, count)[0, :, edge:-edge]
        expected = whole[0, :, first_frame + shift : first_frame + shift + count][:, edge:-edge]
        assert part.shape[1] >= 8
        torch.testing.assert_close(part, expected, atol=1e-4, rtol=0)


def test_a_padded_clip_gives_the_mel_it_gives_alone():
    decoder, lengths, speaker = make_decoder(75.0), torch.tensor([30, 1, 12]), torch.tensor([0, 1, 1])
    codes = random_codes(3, 3, 30)
    together = decoder(codes, lengths, speaker, torch.zeros(3), 34)
    for i, length in enumerate(lengths.tolist()):
        clip, frames = slice(i, i + 1), round(length * 22050 / 256 / 75)  # whose centres lie within the clip
        alone = decoder(codes[clip, :, :length], lengths[clip], speaker[clip], torch.zeros(1), frames)
        torch.testing.assert_close(together[i : i + 1, :, :frames], alone, atol=1e-5, rtol=0)


def test_every_codebook_and_the_speaker_are_heard():
    decoder, codes = make_decoder(75.0), random_codes(1, 3, 20)
    zero, length = torch.zeros(1, dtype=torch.long), torch.tensor([20])
    mel = decoder(codes, length, zero, torch.zeros(1), 22)
    assert (decoder(codes, length, zero + 1, torch.zeros(1), 22) - mel).abs().max() > 1e-3
    for k in range(3):
        changed = codes.clone()
        changed[:, k, 10] = (changed[:, k, 10] + 1) % 10
        difference = (decoder(changed, length, zero, torch.zeros(1), 22) - mel).abs().amax(dim=(0, 1))
        assert difference[11] > 1e-3
        assert difference[0] == 0
