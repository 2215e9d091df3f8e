"""The decoder of hidden states, and the language model, decoder and vocoder as one network."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_backbones import every_backbone
from test_token_lm import CODEBOOK_SIZE, GREEDY, N_SYMBOLS, alone, make_lm, random_batch

from config import AudioConfig, HiddenDecoderConfig, parse_config
from losses import token_cross_entropy
from models import HiddenToWave, build_wave_generator
from models.hidden_decoder import HiddenDecoder

FRAME_SECONDS = 256 / 22050
DATA = {"training_filelist": "train.txt", "validation_filelist": "validation.txt"}
SIZES = {
    "text": {"symbols": list("abcdefgh")}, "codec": {"n_codebooks": 2, "codebook_size": 10, "frame_rate": 30.0},
    "speakers": ["ann", "bob", "eve"], "languages": ["de", "es"],
}
VOCODERS = pytest.mark.parametrize("vocoder", [
    {"kind": "vocos", "hidden_size": 8, "intermediate_size": 16, "n_layers": 1},
    {"kind": "multiband_istft", "hidden_size": 8, "resblock_kernel_sizes": [3], "resblock_dilations": [1]},
], ids=["vocos", "multiband_istft"])


def make_decoder(code_rate: float = 30.0, padding: str = "same") -> HiddenDecoder:
    torch.manual_seed(0)
    config = HiddenDecoderConfig(hidden_size=8, n_layers=4, kernel_size=5)
    decoder = HiddenDecoder(config, AudioConfig(n_mels=6, padding=padding), 16, code_rate, 3)
    for parameter in decoder.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return decoder.eval()


def make_generator(vocoder: dict, joint: bool, dropout: float = 0.0) -> HiddenToWave:
    config = parse_config({
        "data": DATA, "vocoder": vocoder, "hidden_decoder": {"hidden_size": 8, "n_layers": 2},
        "llm": {"hidden_size": 16, "n_layers": 2, "n_heads": 2, "max_positions": 64, "dropout": dropout},
        "train": {"vocoder": {"conditioning": "hidden", "joint": joint}},
    }, "test")
    torch.manual_seed(0)
    return build_wave_generator(config, SIZES)


def given(text_lengths: list[int], code_lengths: list[int]) -> dict:
    batch = random_batch(2, text_lengths, code_lengths)
    return batch | {"text": batch["text"] % 8, "start": torch.zeros(len(text_lengths))}


@pytest.mark.parametrize("padding", ["same", "center"])
@pytest.mark.parametrize("code_rate", [21.5, 75.0])
def test_states_and_frames_meet_in_time(code_rate, padding):
    decoder = make_decoder(code_rate, padding)
    for block in (*decoder.code_blocks, *decoder.mel_blocks):
        torch.nn.init.zeros_(block.gamma)  # leaves the projections and the resampling alone
    states, start = torch.randn(1, 16, 40), 2.6
    n_frames = int(40 / code_rate / FRAME_SECONDS - start)
    found = decoder(states, torch.tensor([40]), torch.tensor([1]), torch.tensor([start]), n_frames)[0]
    with torch.no_grad():
        norm, linear = decoder.project_in
        normed = F.layer_norm(states[0].T, (16,), norm.weight, norm.bias)
        features = normed @ linear.weight.T + linear.bias + decoder.speaker.weight[1]
        seconds = (start + np.arange(n_frames) + (0.5 if padding == "same" else 0)) * FRAME_SECONDS
        centres = (np.arange(40) + 0.5) / code_rate
        resampled = np.stack([np.interp(seconds, centres, channel) for channel in features.T.numpy()], axis=1)
        expected = decoder.project_out(decoder.norm(torch.from_numpy(resampled).float())).T
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_padded_clip_gives_the_mel_it_gives_alone():
    decoder, lengths, speaker = make_decoder(), torch.tensor([30, 1, 12]), torch.tensor([0, 1, 2])
    states = torch.randn(3, 16, 30, generator=torch.Generator().manual_seed(1))
    together = decoder(states, lengths, speaker, torch.zeros(3), 90)
    for i, length in enumerate(lengths.tolist()):
        clip, frames = slice(i, i + 1), round(length / 30 / FRAME_SECONDS)
        one = decoder(states[clip, :, :length], lengths[clip], speaker[clip], torch.zeros(1), frames)
        torch.testing.assert_close(together[clip, :, :frames], one, atol=1e-5, rtol=0)


@torch.no_grad()
@every_backbone
@pytest.mark.parametrize("n_codebooks", [1, 3])
def test_what_is_generated_decodes_as_what_is_trained_on(settings, n_codebooks):
    """The states of generation with a cache and those of teacher forcing give the same mel."""
    lm, decoder = make_lm(n_codebooks, **settings), make_decoder()
    texts = [torch.arange(length) % N_SYMBOLS for length in (3, 8, 5)]
    speaker, language = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 0])
    made = lm.generate(texts, speaker, language, [20, 6, 11], GREEDY, with_states=True)
    for i, (text, generated) in enumerate(zip(texts, made, strict=True)):
        one, frames = slice(i, i + 1), generated.codes.shape[1]
        length, n_frames = torch.tensor([frames]), round(frames / 30 / FRAME_SECONDS)
        states = lm.frame_states(
            text[None], torch.tensor([len(text)]), generated.codes[None], length, speaker[one], language[one]
        )
        mels = [decoder(s, length, speaker[one], torch.zeros(1), n_frames) for s in (generated.states[None], states)]
        torch.testing.assert_close(*mels, atol=1e-3, rtol=0)


@VOCODERS
def test_a_clip_of_a_batch_becomes_what_it_becomes_alone(vocoder):
    generator, batch = make_generator(vocoder, joint=True).eval(), given([5, 8, 2], [20, 9, 14])
    mel, output, logits, _ = generator(*batch.values(), 30)
    assert mel.shape == (3, 80, 30)
    assert output.wave.shape == (3, 30 * 256)
    for i in range(3):
        one_mel, one_output, one_logits, _ = generator(*alone(batch, i).values(), 30)
        frames = min(30, int(batch["code_lengths"][i] / 30 / FRAME_SECONDS))
        torch.testing.assert_close(mel[i, :, :frames], one_mel[0, :, :frames], atol=1e-4, rtol=0)
        torch.testing.assert_close(logits[i, :, : one_logits.shape[2]], one_logits[0], atol=1e-5, rtol=0)
        if frames == 30:
            torch.testing.assert_close(output.wave[i], one_output.wave[0], atol=1e-4, rtol=0)


@VOCODERS
def test_a_crop_is_made_of_that_part_of_the_mel(vocoder):
    generator, batch = make_generator(vocoder, joint=False).eval(), given([5, 8], [20, 18])
    first = torch.tensor([3, 11])
    mel, output = generator(*batch.values(), 40, (first, 10))
    assert mel.shape[2] == 40
    for i, start in enumerate(first.tolist()):
        expected = generator.vocoder(mel[i : i + 1, :, start : start + 10]).wave
        torch.testing.assert_close(output.wave[i : i + 1], expected, atol=1e-5, rtol=0)


@VOCODERS
def test_the_wave_alone_teaches_the_language_model_only_if_joint(vocoder):
    batch = given([5, 8], [20, 18])
    for joint in (True, False):
        generator = make_generator(vocoder, joint, dropout=0.5).train()
        outputs = generator(*batch.values(), 30)
        outputs[1].wave.square().mean().backward()
        gradients = {name: parameter.grad for name, parameter in generator.lm.named_parameters()}
        heads = [name for name in gradients if name.startswith("heads.")]
        assert all(generator.lm.training == joint == p.requires_grad for p in generator.lm.parameters())
        assert generator.decoder.project_in[1].weight.grad.abs().sum() > 0
        if not joint:
            assert len(outputs) == 2
            assert all(gradient is None for gradient in gradients.values())
            again = generator(*batch.values(), 30)
            assert again[0].equal(outputs[0])  # no dropout in what is not trained
            continue
        body = ("body.wte.weight", "body.h.0.attn.c_attn.weight", "code_embeddings.1.weight",
                "speaker_embedding.weight", "language_embedding.weight")
        assert all(gradients[name].abs().sum() > 0 for name in body)
        assert all(gradients[name] is None for name in heads)  # these say codes, which no wave is made of


def test_the_loss_of_the_codes_is_the_language_models_own():
    generator = make_generator({"kind": "vocos", "hidden_size": 8, "intermediate_size": 16, "n_layers": 1}, joint=True)
    batch = given([5, 8], [20, 18])
    _, _, *predicted = generator.eval()(*batch.values(), 30)
    del batch["start"]
    expected = generator.lm(**batch)
    torch.testing.assert_close(token_cross_entropy(*predicted), token_cross_entropy(*expected))
    assert predicted[1].equal(expected[1])
    assert predicted[0].shape[-1] == CODEBOOK_SIZE + 2
