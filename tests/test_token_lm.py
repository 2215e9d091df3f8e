"""The token LM against step-by-step references, on a GPT-2 of a few thousand parameters."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from config import TokenLMConfig
from models.layers.delay import steps_for
from models.layers.sampling import Sampling
from models.token_lm import CONDITIONS, TokenLM

N_SYMBOLS, CODEBOOK_SIZE = 20, 10
GREEDY = Sampling(temperature=0)


def make_lm(n_codebooks: int = 3, **settings) -> TokenLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "n_layers": 2, "n_heads": 2, "max_positions": 64, "dropout": 0.0}
    lm = TokenLM(TokenLMConfig(**(sizes | settings)), n_symbols=N_SYMBOLS, n_codebooks=n_codebooks,
                 codebook_size=CODEBOOK_SIZE, n_speakers=3, n_languages=2)
    for parameter in lm.parameters():  # far from uniform logits
        parameter.data += 0.3 * torch.randn_like(parameter)
    return lm.eval()


def random_batch(n_codebooks: int, text_lengths: list[int], code_lengths: list[int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    B = len(text_lengths)
    return {
        "text": torch.randint(N_SYMBOLS, (B, max(text_lengths)), generator=generator),
        "text_lengths": torch.tensor(text_lengths),
        "codes": torch.randint(CODEBOOK_SIZE, (B, n_codebooks, max(code_lengths)), generator=generator),
        "code_lengths": torch.tensor(code_lengths),
        "speaker": torch.arange(B) % 3, "language": torch.arange(B) % 2,
    }


def alone(batch: dict[str, torch.Tensor], i: int) -> dict[str, torch.Tensor]:
    L, T = int(batch["text_lengths"][i]), int(batch["code_lengths"][i])
    one = {name: value[i : i + 1] for name, value in batch.items()}
    return one | {"text": one["text"][:, :L], "codes": one["codes"][:, :, :T]}


@pytest.mark.parametrize("n_codebooks", [1, 2, 4])
def test_a_padded_clip_gives_what_it_gives_alone(n_codebooks):
    lm = make_lm(n_codebooks)
    batch = random_batch(n_codebooks, [5, 9, 2, 1], [7, 1, 12, 3])
    logits, targets = lm(**batch)
    for i in range(4):
        alone_logits, alone_targets = lm(**alone(batch, i))
        steps = alone_logits.shape[2]
        torch.testing.assert_close(logits[i : i + 1, :, :steps], alone_logits, atol=1e-5, rtol=0)
        assert torch.equal(targets[i : i + 1, :, :steps], alone_targets)
        assert (targets[i, :, steps:] == -100).all()


def test_logits_equal_gpt2_on_the_sequence_put_together_by_hand():
    lm = make_lm(2)
    one = alone(random_batch(2, [4, 6], [3, 5]), 0)
    begin, end, pad = lm.begin, lm.end, lm.pad
    a, b = one["codes"][0].tolist()
    inputs = [[begin, *a, end], [begin, begin, *b]]  # one step late; codebook 1 has one step of delay
    embedded = [lm.language_embedding.weight[one["language"][0]], lm.speaker_embedding.weight[one["speaker"][0]]]
    embedded += [lm.body.wte.weight[symbol] for symbol in one["text"][0]]
    embedded += [lm.code_embeddings[0].weight[x] + lm.code_embeddings[1].weight[y]
                 for x, y in list(zip(*inputs, strict=True))[:4]]
    hidden = lm.body(inputs_embeds=torch.stack(embedded)[None]).last_hidden_state[0, CONDITIONS + 4 :]
    logits, targets = lm(**one)
    for k in range(2):
        torch.testing.assert_close(logits[0, k], hidden @ lm.heads[k].weight.T, atol=1e-5, rtol=0)
    assert targets[0].tolist() == [[*a, end], [-100, *b]]
    assert pad not in targets


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        lm = make_lm(2, gradient_checkpointing=checkpointing).train()
        logits, targets = lm(**random_batch(2, [4, 6], [3, 5]))
        F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=-100).backward()
        gradients.append([p.grad for p in lm.parameters() if p.grad is not None])
    assert len(gradients[0]) > 30
    torch.testing.assert_close(gradients[0], gradients[1])


def test_too_many_positions():
    lm = make_lm(2, max_positions=12)
    assert lm.positions_for(5, 4) == CONDITIONS + 5 + steps_for(4, 2) == 12
    lm(**random_batch(2, [5], [4]))
    with pytest.raises(ValueError, match="13 positions, the model has 12"):
        lm(**random_batch(2, [5], [5]))


def greedy_without_cache(lm: TokenLM, text: torch.Tensor, speaker: int, language: int, bound: int) -> list[list[int]]:
    """The whole sequence through the network for every step; columns of the delay pattern, cut at the end."""
    K, rows, frames = lm.n_codebooks, [], None
    for step in range(steps_for(bound, lm.n_codebooks)):
        inputs = torch.tensor([[lm.begin] * K, *rows]).T[None]  # (1, K, step + 1)
        prefix = lm.prefix(text[None], torch.tensor([speaker]), torch.tensor([language]))
        whole = torch.cat([prefix, lm.embed_codes(inputs)], dim=1)
        logits = lm.logits(lm.body(inputs_embeds=whole, use_cache=False).last_hidden_state)[0, :, -1]
        row = []
        for k in range(K):
            time = step - k
            allowed = CODEBOOK_SIZE
            if time < 0:
                row.append(lm.begin)
                continue
            if frames is not None and time >= frames:
                row.append(lm.pad)
                continue
            best = int(logits[k, :allowed].argmax())
            if k == 0 and step > 0 and logits[0, lm.end] > logits[0, best]:
                best = lm.end
            if k == 0 and (best == lm.end or step == bound):
                frames, best = step, lm.end
            row.append(best)
        rows.append(row)
        if frames is not None and step + 1 >= steps_for(frames, K):
            break
    return [[rows[t + k][k] for t in range(frames)] for k in range(K)]


@pytest.mark.parametrize("n_codebooks", [1, 2, 4])
def test_generation_with_the_cache_equals_generation_without(n_codebooks):
    lm, reasons = make_lm(n_codebooks, max_positions=48), set()
    texts = [torch.randint(N_SYMBOLS, (length,), generator=torch.Generator().manual_seed(length))
             for length in (3, 8, 1, 5, 30)]
    speaker, language, bounds = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0, 1, 0, 1, 0]), [9, 6, 20, 1, 30]
    with torch.no_grad():
        lm.heads[0].weight[lm.end] *= 4  # ends sometimes
    made = lm.generate(texts, speaker, language, bounds, GREEDY)
    for i, (text, generated) in enumerate(zip(texts, made, strict=True)):
        room = 48 - CONDITIONS - len(text) - max(1, n_codebooks - 1)
        bound = min(bounds[i], room)
        with torch.no_grad():
            expected = greedy_without_cache(lm, text, int(speaker[i]), int(language[i]), bound)
        assert generated.codes.tolist() == expected
        assert generated.finish_reason == ("length" if generated.codes.shape[1] == bound else "stop")
        reasons.add(generated.finish_reason)
    assert reasons == {"length", "stop"}


def test_the_bound_and_the_positions_end_generation():
    lm = make_lm(3, max_positions=40)
    with torch.no_grad():
        lm.heads[0].weight[lm.end] = 0  # never the largest
        lm.heads[0].weight[0] = 0
    text, zero = torch.arange(10), torch.zeros(1, dtype=torch.long)
    generated, = lm.generate([text], zero, zero, [7], GREEDY)
    assert (generated.codes.shape, generated.finish_reason) == ((3, 7), "length")
    generated, = lm.generate([text], zero, zero, [1000], GREEDY)
    assert generated.codes.shape == (3, 40 - CONDITIONS - 10 - 2)
    with pytest.raises(ValueError, match="a text of 36 symbols leaves no room for speech"):
        lm.generate([torch.zeros(36, dtype=torch.long)], zero, zero, [5], GREEDY)


def test_a_seed_gives_the_same_codes_again():
    lm, zero = make_lm(2), torch.zeros(2, dtype=torch.long)
    texts = [torch.arange(4), torch.arange(7)]

    def codes(seed: int) -> list:
        generator = torch.Generator().manual_seed(seed)
        return [g.codes.tolist() for g in lm.generate(texts, zero, zero, [20, 20], Sampling(), generator)]

    assert codes(1) == codes(1) != codes(2)
    assert all(0 <= code < CODEBOOK_SIZE for clip in codes(3) for row in clip for code in row)


@pytest.fixture
def gpt2_folder(tmp_path):
    torch.manual_seed(5)
    model = GPT2Model(GPT2Config(vocab_size=50, n_positions=64, n_embd=16, n_layer=2, n_head=2))
    model.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


@pytest.mark.parametrize("with_head", [False, True])
def test_every_transformer_weight_is_kept_bit_for_bit(gpt2_folder, with_head):
    theirs = GPT2Model.from_pretrained(gpt2_folder).state_dict()
    if with_head:  # as the hub has it: under other names, and with a head
        model = GPT2LMHeadModel(GPT2Config.from_pretrained(gpt2_folder))
        model.transformer.load_state_dict(theirs)
        model.save_pretrained(gpt2_folder)
    lm = make_lm()
    symbols = lm.body.wte.weight.clone()
    lm.load_pretrained(gpt2_folder)
    ours = lm.body.state_dict()
    assert ours.keys() == theirs.keys()
    assert len(ours) > 25
    for name, weights in ours.items():
        assert torch.equal(weights, symbols if name == "wte.weight" else theirs[name]), name


def edit_config(folder, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_folders_that_do_not_fit_are_refused(gpt2_folder, tmp_path):
    lm = make_lm()
    with pytest.raises(ValueError, match=r"missing: no GPT-2 in it; run: python3 download\.py gpt2"):
        lm.load_pretrained(tmp_path / "missing")
    with pytest.raises(ValueError, match="n_embd 16 there, 24 here; n_head 2 there, 3 here"):
        make_lm(hidden_size=24, n_heads=3).load_pretrained(gpt2_folder)
    edits = {
        "n_positions 1024 there, 64 here": {"n_positions": 1024}, "holds a bert": {"model_type": "bert"},
        "activation_function relu there": {"activation_function": "relu"},
    }
    for message, values in edits.items():
        shutil.copytree(gpt2_folder, tmp_path / "edited", dirs_exist_ok=True)
        edit_config(tmp_path / "edited", **values)
        with pytest.raises(ValueError, match=message):
            lm.load_pretrained(tmp_path / "edited")
    weights = gpt2_folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-100])
    with pytest.raises(ValueError, match="its weights cannot be read"):
        lm.load_pretrained(gpt2_folder)
    weights.unlink()
    with pytest.raises(ValueError, match="its weights cannot be read"):
        lm.load_pretrained(gpt2_folder)
    (gpt2_folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not valid JSON"):
        lm.load_pretrained(gpt2_folder)


def test_missing_weights_are_not_made_up(gpt2_folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(gpt2_folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("h.1.mlp.c_fc.weight"))
    save_file({key: value for key, value in weights.items() if key != name}, gpt2_folder / "model.safetensors",
              {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights are missing, first h\.1\.mlp\.c_fc\.weight"):
        make_lm().load_pretrained(gpt2_folder)


def test_it_learns_eight_clips_by_heart():
    torch.manual_seed(0)
    lm = make_lm(4, hidden_size=64, n_heads=4, max_positions=64)
    text_lengths, code_lengths = [6, 9, 4, 12, 8, 5, 10, 7], [11, 18, 5, 24, 9, 1, 15, 20]
    batch = random_batch(4, text_lengths, code_lengths)
    optimizer = torch.optim.AdamW(lm.parameters(), 3e-3, weight_decay=0)
    for _ in range(300):
        logits, targets = lm(**batch)
        loss = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.01:
            break
    accuracy = (logits.argmax(-1) == targets)[targets != -100].float().mean()
    assert accuracy > 0.99
    texts = [text[:length] for text, length in zip(batch["text"], text_lengths, strict=True)]
    made = lm.generate(texts, batch["speaker"], batch["language"], [40] * 8, GREEDY)
    for generated, codes, length in zip(made, batch["codes"], code_lengths, strict=True):
        assert generated.finish_reason == "stop"
        assert torch.equal(generated.codes, codes[:, :length])
