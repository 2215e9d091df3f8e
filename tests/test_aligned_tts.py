"""The aligned-duration model: batch = alone, cached = teacher-forced, controls, and that it learns."""

import itertools

import pytest
import torch

from config import AlignedConfig, AudioConfig, AutoregressiveDecoderConfig, FlowDecoderConfig, ParallelDecoderConfig
from losses import aligned_losses
from models.aligned_tts import AlignedTTS, Prosody

DECODERS = {
    "parallel": ParallelDecoderConfig(hidden_size=64, n_layers=2),
    "flow": FlowDecoderConfig(hidden_size=64, n_layers=2),
    "autoregressive": AutoregressiveDecoderConfig(hidden_size=64, n_layers=2, n_heads=2, intermediate_size=128),
}
TEXT = torch.randint(4, 50, (2, 9), generator=torch.Generator().manual_seed(0))


def build(kind: str, **sizes) -> AlignedTTS:
    torch.manual_seed(0)
    config = AlignedConfig(hidden_size=32, n_layers=2, n_heads=2, feed_forward_size=64, predictor_size=32,
                           decoder=DECODERS[kind], dropout=0.0, **sizes)
    model = AlignedTTS(config, AudioConfig(), n_symbols=50, n_speakers=3, n_languages=2).eval()
    # fresh predictors say that everything is a mark
    torch.nn.init.constant_(model.predictors["duration"].out.bias, 1.6)
    return model


def clips() -> dict:
    """Two clips of 9 and 6 symbols, 31 and 20 frames."""
    random = torch.Generator().manual_seed(1)
    durations = torch.tensor([[4, 0, 5, 3, 4, 0, 6, 5, 4], [3, 4, 0, 5, 4, 4, 0, 0, 0]])
    inside = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    return {
        "text": TEXT * inside, "text_lengths": torch.tensor([9, 6]), "durations": durations,
        "pitch": torch.randn(2, 9, generator=random) * inside, "energy": torch.randn(2, 9, generator=random) * inside,
        "speaker": torch.tensor([0, 2]), "language": torch.tensor([1, 0]),
    }


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("together", [1, 2, 3])
@pytest.mark.parametrize("kind", DECODERS)
def test_a_text_in_a_batch_gives_what_it_gives_alone(kind, together):
    model = build(kind, frames_per_position=together)
    texts, speaker, language = [TEXT[0], TEXT[1, :5]], torch.tensor([0, 1]), torch.tensor([1, 0])
    both = model.generate(texts, speaker, language, generators=generators(1, 2))
    for i in range(2):
        alone = model.generate(texts[i : i + 1], speaker[i : i + 1], language[i : i + 1], generators=generators(i + 1))
        assert torch.equal(alone[0].durations, both[i].durations)
        assert torch.allclose(alone[0].mel, both[i].mel, atol=1e-5)
        assert len(both[i].durations) == len(texts[i])
    if kind != "autoregressive":  # which may stop within the last silence
        assert all(spoken.mel.shape == (80, int(spoken.durations.sum())) for spoken in both)


def speech_in_parts(model: AlignedTTS, ends, **options) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A long text's mel, whole and as it is streamed."""
    text, zero = [TEXT[0].repeat(12)], torch.tensor([0])
    whole = model.generate(text, zero, zero, generators=generators(1), **options)[0].mel
    parts = list(model.stream(model.plan(text, zero, zero, generators=generators(1), **options), ends))
    assert [ended for _, ended in parts] == [False] * (len(parts) - 1) + [True]
    return whole, [mel for mel, _ in parts]


@pytest.mark.parametrize("together", [1, 2, 3])
@pytest.mark.parametrize("kind", DECODERS)
def test_streamed_in_parts_is_the_whole(kind, together):
    model = build(kind, frames_per_position=together)
    for parameter in model.decoder.parameters():  # every weight counts, so that what is far is heard, too
        parameter.data += 0.3 * torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5
    whole, parts = speech_in_parts(model, itertools.count(7, 40))
    assert whole.shape[1] > 300
    made = torch.tensor([mel.shape[1] for mel in parts[:3]]).cumsum(0)
    assert ((made - torch.tensor([7, 47, 87])) < together).all()
    assert (made >= torch.tensor([7, 47, 87])).all()
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-4)
    alone, = speech_in_parts(model, [])[1]
    assert torch.allclose(alone, whole, atol=1e-4)


def test_a_stream_ends_where_the_decoder_stops():
    model = build("autoregressive")
    torch.nn.init.constant_(model.predictors["duration"].out.bias, 3.0)  # 19 frames, the last silence, too
    for bias in (20.0, -20.0):
        torch.nn.init.constant_(model.decoder.stop.bias, bias)
        whole, parts = speech_in_parts(model, [100, 200, 5000])
        assert len(parts) == 3
        assert sum(mel.shape[1] for mel in parts) == whole.shape[1]
        assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-4)


@pytest.mark.parametrize("kind", ["parallel", "flow"])
def test_no_position_sees_further_than_the_reach(kind):
    decoder = build(kind).decoder
    features, mask = torch.randn(1, 80, 32), torch.ones(1, 80, dtype=torch.bool)
    features[:, 40] = torch.nan
    unknown = decoder.generate(features, mask, torch.zeros(1, 80, 160)).mel.isnan()[0, :, 0].nonzero()
    assert (int(unknown.min()), int(unknown.max())) == (40 - decoder.reach, 40 + decoder.reach)


@pytest.mark.parametrize("kind", ["parallel", "flow"])
@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_the_rate_scales_the_speech(kind, rate):
    model = build(kind)
    usual, scaled = (
        model.generate([TEXT[0]], torch.tensor([0]), torch.tensor([0]), Prosody(rate=r))[0].durations[:-1].sum()
        for r in (1.0, rate)
    )
    assert abs(scaled - usual / rate) <= 1


def test_pitch_and_energy_change_the_mel_and_not_the_durations():
    model = build("parallel")
    usual = model.generate([TEXT[0]], torch.tensor([0]), torch.tensor([0]))[0]
    for prosody in (Prosody(pitch=3.0), Prosody(energy=6.0)):
        changed = model.generate([TEXT[0]], torch.tensor([0]), torch.tensor([0]), prosody)[0]
        assert torch.equal(changed.durations, usual.durations)
        assert not torch.allclose(changed.mel, usual.mel)


def test_autoregressive_cached_is_teacher_forced():
    model = build("autoregressive")
    features = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        mask = torch.ones(2, 12, dtype=torch.bool)
        made = model.decoder.generate(features, mask, torch.zeros(2, 12, 160))
        forced = model.decoder(features, mask, made.mel)
    assert torch.allclose(forced.mel, made.mel, atol=1e-5)
    assert torch.allclose(forced.stop_logits, made.stop_logits, atol=1e-5)


def test_a_stop_cuts_nothing_but_the_last_silence():
    model = build("autoregressive")
    mask, durations = torch.ones(1, 3, dtype=torch.bool), torch.tensor([[4, 6, 8]])
    for position, frames in ((0, 10), (5, 12), (7, 16), (None, 18)):
        stops = torch.full((1, 9), -1.0)
        if position is not None:
            stops[0, position] = 1.0
        assert model._stopped(stops, durations.sum(1), durations, mask).tolist() == [frames]


@pytest.mark.parametrize("kind", DECODERS)
def test_padding_changes_no_loss(kind):
    model, batch = build(kind), clips()
    mel = torch.randn(2, 80, 31, generator=torch.Generator().manual_seed(5))

    def losses(part: slice, symbols: int, frames: int) -> dict:
        torch.manual_seed(7)
        cut = {name: value[part, :symbols] if value.dim() == 2 else value[part] for name, value in batch.items()}
        output = model(mel=mel[part, :, :frames], **cut)
        return aligned_losses(output, cut["durations"], cut["pitch"], model.standard_energy(cut["energy"]))

    wide, narrow = losses(slice(1, 2), 9, 31), losses(slice(1, 2), 6, 20)
    for name in narrow.keys() - {"flow"}:  # whose noise is drawn for the whole width
        assert torch.allclose(wide[name], narrow[name], atol=1e-5), name
    assert ("flow" in narrow) == (kind == "flow")
    assert ("stop" in narrow) == (kind == "autoregressive")


def test_the_flow_is_exact_for_an_exact_velocity():
    decoder = build("flow").decoder
    decoder.n_steps = 10
    target, noise = torch.randn(1, 4, 160), torch.randn(1, 4, 160)
    decoder.velocity = lambda x, time, condition, mask: target - noise
    features = torch.zeros(1, 4, 32)
    assert torch.allclose(decoder.generate(features, torch.ones(1, 4, dtype=torch.bool), noise).mel, target, atol=1e-5)


def test_noise_at_time_zero_and_the_target_at_time_one(monkeypatch):
    decoder, seen = build("flow").decoder, []
    monkeypatch.setattr(decoder, "velocity", lambda x, time, condition, mask: seen.append(x) or torch.zeros_like(x))
    target, mask = torch.randn(1, 4, 160), torch.ones(1, 4, dtype=torch.bool)
    for time in (0.0, 1.0):
        monkeypatch.setattr(torch, "rand", lambda *_, time=time, **__: torch.tensor([time]))
        output = decoder(torch.zeros(1, 4, 32), mask, target)
    noise = target - output.velocity_target
    assert torch.allclose(seen[1], target, atol=1e-3)
    assert not torch.allclose(seen[0], target, atol=1.0)
    assert torch.allclose(seen[1] - noise * 1e-4, target, atol=1e-2)


@pytest.mark.parametrize("kind", DECODERS)
def test_it_learns_two_clips(kind):
    model, batch = build(kind).train(), clips()
    mel = torch.randn(2, 80, 31, generator=torch.Generator().manual_seed(5)) * 2 - 5
    optimizer, history = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(60):
        output = model(mel=mel, **batch)
        losses = aligned_losses(output, batch["durations"], batch["pitch"], model.standard_energy(batch["energy"]))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    for name in ("mel", "duration", "pitch", "energy"):
        assert history[-1][name] < 0.75 * history[0][name], name
    output = model(mel=mel, **batch)
    assert output.log_durations.expm1()[0].detach().sub(batch["durations"][0]).abs().max() < 1.5
