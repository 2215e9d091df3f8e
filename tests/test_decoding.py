"""Fast decoding against the simple one: TokenLM.generate, and the backbone itself."""

from itertools import zip_longest

import numpy as np
import pytest
import torch
from test_backbones import BACKBONES
from test_token_lm import CODEBOOK_SIZE, GREEDY, N_SYMBOLS, make_lm

from decoding import kernel
from decoding.engine import STEPS_PER_LOOK, Decoder, bucket
from decoding.functional import Functional
from decoding.rows import Drawing, Rows
from decoding.weights import Matrix, quantized, read_weights, restored, weight_bytes
from models.layers.delay import steps_for
from models.layers.sampling import Sampling
from models.token_lm import TokenLM

GROUPED = {"backbone": "qwen3", "n_heads": 4, "n_kv_heads": 2, "head_size": 6}
EVERY = BACKBONES | {"grouped": GROUPED}
every_backbone = pytest.mark.parametrize("settings", EVERY.values(), ids=EVERY)


def weights_of(lm: TokenLM):
    return read_weights(lm.body, [head.weight for head in lm.heads])


def random_codes(lm: TokenLM, frames: int, seed: int) -> torch.Tensor:
    return torch.randint(CODEBOOK_SIZE, (lm.n_codebooks, frames), generator=torch.Generator().manual_seed(seed))


def tasks(lm: TokenLM, n: int) -> dict:
    """n texts of different lengths; some go on from a prompt, some have a voice."""
    generator = torch.Generator().manual_seed(n)
    lengths = torch.randint(1, 14, (n,), generator=generator).tolist()
    return {
        "text": [torch.randint(N_SYMBOLS, (length,), generator=generator) for length in lengths],
        "speaker": torch.arange(n) % 4 - 1, "language": torch.arange(n) % 2,
        "max_frames": torch.randint(1, 25, (n,), generator=generator).tolist(),
        "prompts": [random_codes(lm, 4 + i, i) if i % 3 == 1 else None for i in range(n)],
        "voices": [random_codes(lm, 3 + i, i) if i % 4 == 2 else None for i in range(n)],
    }


def ends_sometimes(lm: TokenLM) -> TokenLM:
    with torch.no_grad():
        lm.heads[0].weight[lm.end] *= 4
    return lm


def assert_equal(made: list, expected: list, atol: float = 1e-4) -> None:
    assert len(made) == len(expected)
    for ours, theirs in zip(made, expected, strict=True):
        assert ours.codes.equal(theirs.codes)
        assert ours.finish_reason == theirs.finish_reason
        assert (ours.states is None) == (theirs.states is None)
        if ours.states is not None:
            torch.testing.assert_close(ours.states, theirs.states, atol=atol, rtol=0)


@every_backbone
@torch.inference_mode()
def test_every_step_equals_the_backbone(settings):
    lm = make_lm(3, **settings)
    weights, D = weights_of(lm), lm.config.hidden_size
    x = torch.randn(4, 30, D, generator=torch.Generator().manual_seed(0))
    expected = lm.body(inputs_embeds=x).last_hidden_state
    logits = lm.logits(expected).transpose(1, 2).flatten(2)  # (B, T, heads)
    cache = torch.zeros(2, 2, 4, weights.n_kv_heads, 32, settings.get("head_size", D // lm.config.n_heads))
    (keys, values), functional, lengths = cache, Functional(weights), torch.tensor([9, 2, 5])
    order = torch.tensor([3, 0, 2])  # texts of the first three rows
    hidden, heads = functional.prefix(x[order, :9], lengths, torch.tensor([2, 0, 1]), keys, values)
    torch.testing.assert_close(hidden, expected[order, lengths - 1], atol=1e-4, rtol=0)
    torch.testing.assert_close(heads, logits[order, lengths - 1], atol=1e-4, rtol=0)
    order, positions = order[[1, 2, 0]], lengths[[1, 2, 0]]
    for _ in range(20):
        given, own = x[order, positions], cache.clone()
        found = torch.empty(3, D), torch.empty(3, weights.heads.weight.shape[1])
        used, at, *caches, states, scores = (array.numpy() for array in (given.clone(), positions, *own, *found))
        kernel.step(kernel.arrays_of(weights), functional.arrays, used, at, *caches, 0, states, scores)
        for hidden, heads in (found, functional.step(given, positions, keys, values, int(positions.max()) + 1)):
            torch.testing.assert_close(hidden, expected[order, positions], atol=1e-4, rtol=0)
            torch.testing.assert_close(heads, logits[order, positions], atol=1e-4, rtol=0)
        torch.testing.assert_close(own, cache, atol=1e-5, rtol=0)
        positions = positions + 1


@every_backbone
@torch.inference_mode()
def test_a_cache_that_grows(settings):
    lm = make_lm(3, **settings)
    x = torch.randn(30, lm.config.hidden_size, generator=torch.Generator().manual_seed(0))
    expected = lm.body(inputs_embeds=x[None]).last_hidden_state[0]
    functional, weights = Functional(weights_of(lm), plain=True), weights_of(lm)
    past = torch.zeros(0, 2, lm.config.n_layers, weights.n_kv_heads, weights.cos.shape[1])
    for count in (9, 1, 1, 12, 1):
        hidden, logits, added = functional.extend(x[len(past) : len(past) + count], past)
        past = torch.cat([past, added])
        torch.testing.assert_close(hidden, expected[len(past) - 1], atol=1e-4, rtol=0)
        torch.testing.assert_close(logits, lm.logits(hidden[None, None]).flatten(), atol=1e-4, rtol=0)


@every_backbone
@pytest.mark.parametrize("n_codebooks", [1, 2, 4])
@pytest.mark.parametrize("with_states", [False, True])
def test_greedy_codes_and_states_equal_the_simple_way(settings, n_codebooks, with_states):
    lm = ends_sometimes(make_lm(n_codebooks, max_positions=56, **settings))
    batch = tasks(lm, 11)
    expected = lm.generate(**batch, sampling=GREEDY, with_states=with_states)
    assert n_codebooks == 4 or {generated.finish_reason for generated in expected} == {"stop", "length"}
    decoder = Decoder(lm, rows=5)
    for _ in range(2):  # also with the rows of the call before
        assert_equal(decoder.generate(**batch, sampling=GREEDY, with_states=with_states), expected)


@pytest.mark.parametrize("rows", [1, 2, 9, 16, 40])
def test_texts_wait_for_rows_and_come_back_in_order(rows):
    lm = ends_sometimes(make_lm(2))
    batch = tasks(lm, 16)
    assert_equal(Decoder(lm, rows=rows).generate(**batch, sampling=GREEDY), lm.generate(**batch, sampling=GREEDY))


def test_one_text_alone_and_none():
    lm = make_lm(3)
    decoder, one = Decoder(lm), {name: values[:1] for name, values in tasks(lm, 4).items()}
    assert_equal(decoder.generate(**one, sampling=GREEDY), lm.generate(**one, sampling=GREEDY))
    assert decoder.generate([], torch.tensor([]), torch.tensor([]), [], GREEDY) == []


def test_texts_to_the_last_position():
    lm = make_lm(3, max_positions=40)
    with torch.no_grad():
        lm.heads[0].weight[[0, lm.end]] = 0  # never the largest
    texts, zero = [torch.arange(10), torch.arange(19), torch.arange(3)], torch.zeros(3, dtype=torch.long)
    for with_states in (False, True):
        arguments = [texts, zero, zero, [1000] * 3, GREEDY]
        expected = lm.generate(*arguments, with_states=with_states)
        assert_equal(Decoder(lm).generate(*arguments, with_states=with_states), expected)
    with pytest.raises(ValueError, match="a text of 36 symbols leaves no room for speech"):
        Decoder(lm).generate([torch.zeros(36, dtype=torch.long)], zero[:1], zero[:1], [5], GREEDY)


@pytest.mark.parametrize("n_codebooks", [1, 2, 4])
@pytest.mark.parametrize("with_states", [False, True])
def test_a_stream_grows_into_what_generate_gives(n_codebooks, with_states):
    lm = ends_sometimes(make_lm(n_codebooks))
    batch, decoder = tasks(lm, 8), Decoder(lm)
    expected = decoder.generate(**batch, sampling=Sampling(), with_states=with_states,
                                generator=[torch.Generator().manual_seed(i) for i in range(8)])
    streams = [
        decoder.stream(text, batch["speaker"][i : i + 1], batch["language"][i : i + 1], batch["max_frames"][i],
                       Sampling(), torch.Generator().manual_seed(i), prompt=batch["prompts"][i],
                       voice=batch["voices"][i], with_states=with_states)
        for i, text in enumerate(batch["text"])
    ]
    for pair in (0, 2, 4, 6):
        grown = [[], []]  # two streams in turns
        for made in zip_longest(*streams[pair : pair + 2]):
            for i in (0, 1):
                grown[i] += [made[i]] if made[i] else []
        for i in (0, 1):
            assert_equal(grown[i][-1:], expected[pair + i : pair + i + 1])
            frames = grown[i][-1].codes.shape[1]
            assert len(grown[i]) in (frames, frames + 1)
            for count, made in enumerate(grown[i][:-1], 1):
                assert made.finish_reason is None
                assert made.codes.equal(grown[i][-1].codes[:, :count])
    zero = torch.tensor([0])
    next(decoder.stream(batch["text"][0], zero, zero, 5, GREEDY))
    assert decoder.session is not None  # also of a stream that is left


SAMPLINGS = [Sampling(), Sampling(temperature=1.2, top_k=0, top_p=0.9, repetition_window=3), Sampling(0.9, 5, 1.0, 0)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_what_is_drawn_for_a_text_does_not_depend_on_the_others(sampling):
    lm = ends_sometimes(make_lm(2))
    batch = tasks(lm, 12)

    def codes(count: int, rows: int, seed: int) -> list:
        first = {name: values[:count] for name, values in batch.items()}
        generator = torch.Generator().manual_seed(seed)
        made = Decoder(lm, rows=rows).generate(**first, sampling=sampling, generator=generator)
        return [generated.codes.tolist() for generated in made]

    every = codes(12, 12, seed=1)
    assert codes(12, 5, seed=1) == codes(12, 1, seed=1) == every
    assert codes(12, 12, seed=2) != every
    for count in (1, 4):
        # seeds of the texts are drawn in their order
        assert codes(count, 12, seed=1) == every[:count]


@pytest.mark.parametrize("n_codebooks", [1, 3])
@pytest.mark.parametrize("sampling", [GREEDY, *SAMPLINGS])
def test_the_kernel_draws_what_tensors_draw(sampling, n_codebooks):
    lm = make_lm(n_codebooks)
    rows = [Rows.allocate(lm, (1, 1, 2), sampling, 6, 20, False) for _ in range(2)]
    generator, drawing = torch.Generator().manual_seed(0), Drawing(lm, sampling)
    late = torch.arange(n_codebooks * steps_for(0, n_codebooks)).view(n_codebooks, -1) % CODEBOOK_SIZE
    for row in range(6):
        for one in rows:
            one.begin(row, 3, 2 + 2 * row, late, seed=row)
    for _ in range(20):
        logits = 3 * torch.randn(6, rows[0].logits.shape[1], generator=generator)
        logits[:, ::2] *= 4  # now and then the same code again and again
        for one in rows:
            one.logits.copy_(logits)
        drawing(rows[0], 5)
        drawing.by_tensors(rows[1], 5)
        for name, value in vars(rows[0]).items():
            assert value.equal(getattr(rows[1], name)), name
    assert rows[0].done.tolist() == [True] * 5 + [False]
    assert rows[0].steps[5] == 0


def test_draws_have_the_distribution_of_the_simple_way():
    lm = make_lm(2)
    n, zero = 1500, torch.zeros(1500, dtype=torch.long)
    arguments = [[torch.arange(6)] * n, zero, zero, [3] * n, Sampling(temperature=1.0, top_k=6)]
    shares = []
    for generate in (lm.generate, Decoder(lm).generate):
        made = generate(*arguments, torch.Generator().manual_seed(0))
        firsts = torch.stack([generated.codes[:, 0] for generated in made])  # (n, K)
        shares.append(torch.stack([torch.bincount(column, minlength=CODEBOOK_SIZE) / n for column in firsts.T]))
    assert (shares[0] > 0.02).sum() > 4
    torch.testing.assert_close(*shares, atol=0.05, rtol=0)


@every_backbone
def test_int8_is_close_and_the_same_for_few_rows_and_many(settings):
    lm = make_lm(2, hidden_size=32, **({"head_size": 8} | settings if "head_size" in settings else settings))
    weights = weights_of(lm)
    small = quantized(weights)
    assert weight_bytes(small) * 4 == weight_bytes(weights)
    for name in ("qkv", "down", "heads"):
        ours, theirs = getattr(restored(small), name), getattr(weights, name)
        error = (ours.weight - theirs.weight).abs().amax(2)
        assert (error <= getattr(small, name).scale * 0.5001).all()
    batch = tasks(lm, 12)
    many = Decoder(lm, rows=12, precision="int8").generate(**batch, sampling=GREEDY, with_states=True)
    few = Decoder(lm, rows=2, precision="int8").generate(**batch, sampling=GREEDY, with_states=True)
    assert_equal(few, many, atol=1e-3)  # the rounding of a prefix may become one level of 16 bits


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 5), (7, 64), (10, 70), (8, 4096)])
def test_int8_products(outputs, inputs):
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (2, outputs, inputs)).astype(np.int8)
    scale, bias = rng.uniform(0.5, 2, (2, 2, outputs)).astype(np.float32)
    x, y = rng.standard_normal((3, inputs)).astype(np.float32), np.empty((3, outputs), np.float32)
    x[1], x[2] = 0, 5 * np.sign(weight[1, 0])  # the largest sums that there can be
    weight[1, 0] = 127 * np.sign(weight[1, 0])
    kernel.product(Matrix(weight, scale, bias), 1, x, y)
    expected = x.astype(np.float64) @ (weight[1] * scale[1][:, None].astype(np.float64)).T + bias[1]
    np.testing.assert_allclose(y, expected, atol=4e-5 * abs(expected).max())
    np.testing.assert_array_equal(y[1], bias[1])


def test_int8_says_what_fp32_says_once_it_is_sure():
    lm = make_lm(2, hidden_size=32)
    codes, text = torch.randint(CODEBOOK_SIZE, (6, 2, 12), generator=torch.Generator().manual_seed(0)), torch.arange(6)
    batch = {"text": torch.stack([text, text + 1, text + 2, text + 3, text + 4, text + 5]),
             "text_lengths": torch.full((6,), 6), "codes": codes, "code_lengths": torch.full((6,), 12),
             "speaker": torch.zeros(6, dtype=torch.long), "language": torch.zeros(6, dtype=torch.long)}
    optimizer = torch.optim.AdamW(lm.parameters(), 1e-2, weight_decay=0)
    for _ in range(80):
        logits, targets = lm(**batch)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    arguments = list(batch["text"]), batch["speaker"], batch["language"], [30] * 6, GREEDY
    same = [ours.codes.equal(theirs.codes)
            for ours, theirs in zip(Decoder(lm, precision="int8").generate(*arguments),
                                    Decoder(lm).generate(*arguments), strict=True)]
    assert sum(same) >= 5


@pytest.mark.parametrize("with_states", [False, True])
def test_steps_after_the_end_change_nothing(with_states, monkeypatch):
    """As on a GPU: steps in groups, over more rows than are in use."""
    def advance(self, session, A, most=STEPS_PER_LOOK):
        for _ in range(most):
            session.draw(session.rows, bucket(A, session.rows.keys.shape[1]))
            self._read(session.rows, bucket(A, session.rows.keys.shape[1]))

    monkeypatch.setattr(Decoder, "_advance", advance)
    lm = ends_sometimes(make_lm(3, max_positions=56))
    batch = tasks(lm, 13)
    expected = lm.generate(**batch, sampling=GREEDY, with_states=with_states)
    for rows in (1, 6, 13):
        assert_equal(Decoder(lm, rows=rows).generate(**batch, sampling=GREEDY, with_states=with_states), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_backbone
@pytest.mark.parametrize("with_states", [False, True])
def test_graphs_give_what_the_simple_way_gives(settings, with_states):
    lm = ends_sometimes(make_lm(3, **settings))
    batch = tasks(lm, 13)
    expected = lm.generate(**batch, sampling=GREEDY, with_states=with_states)
    on_gpu = {name: [v if v is None else v.cuda() for v in values] if name in ("text", "prompts", "voices") else values
              for name, values in batch.items()}
    on_gpu |= {name: batch[name].cuda() for name in ("speaker", "language")}
    decoder = Decoder(lm.cuda(), rows=6)
    for _ in range(2):
        made = decoder.generate(**on_gpu, sampling=GREEDY, with_states=with_states)
        for generated in made:
            generated.codes = generated.codes.cpu()
            generated.states = None if generated.states is None else generated.states.cpu()
        assert_equal(made, expected)
    assert decoder.session.graphs.keys() == {1, 2, 4, 6}
    seeded = [decoder.generate(**on_gpu, sampling=Sampling(), generator=torch.Generator("cuda").manual_seed(1))
              for _ in range(2)]
    assert all(a.codes.equal(b.codes) for a, b in zip(*seeded, strict=True))
    with pytest.raises(ValueError, match="int8 decoding is for CPUs, the model is on cuda"):
        Decoder(lm, precision="int8")
