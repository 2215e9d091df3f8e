"""Every backbone of the token LM: generation, states, text loss, and the weights of pretrained folders."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from test_token_lm import CODEBOOK_SIZE, GREEDY, N_SYMBOLS, alone, greedy_without_cache, make_lm, random_batch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from config import TokenLMConfig
from models.layers.sampling import Sampling
from models.token_lm import CONDITIONS, TokenLM

BACKBONES = {
    "gpt2": {}, "qwen3": {"backbone": "qwen3", "n_kv_heads": 1, "head_size": 6, "intermediate_size": 40},
    "llama": {"backbone": "llama", "rope_theta": 500.0},
}
every_backbone = pytest.mark.parametrize("settings", BACKBONES.values(), ids=BACKBONES)


@every_backbone
@pytest.mark.parametrize("n_codebooks", [1, 3])
def test_a_padded_clip_gives_what_it_gives_alone(settings, n_codebooks):
    lm = make_lm(n_codebooks, **settings)
    batch = random_batch(n_codebooks, [5, 9, 2], [7, 1, 12])
    logits, targets, text_logits, text_targets = lm(**batch, with_text=True)
    assert text_logits.shape == (3, 1, 9, N_SYMBOLS)
    states = lm.frame_states(**batch)
    for i in range(3):
        one = alone(batch, i)
        single, single_targets, single_text, single_text_targets = lm(**one, with_text=True)
        steps, L, T = single.shape[2], one["text"].shape[1], one["codes"].shape[2]
        torch.testing.assert_close(logits[i : i + 1, :, :steps], single, atol=1e-5, rtol=0)
        torch.testing.assert_close(text_logits[i : i + 1, :, :L], single_text, atol=1e-5, rtol=0)
        torch.testing.assert_close(states[i : i + 1, :, :T], lm.frame_states(**one), atol=1e-5, rtol=0)
        assert torch.equal(targets[i : i + 1, :, :steps], single_targets)
        assert single_text_targets.equal(one["text"].unsqueeze(1))
        assert text_targets[i, 0, :L].equal(one["text"][0])
        assert (text_targets[i, 0, L:] == -100).all()
        assert (states[i, :, T:] == 0).all()


@every_backbone
@pytest.mark.parametrize("n_codebooks", [1, 2, 4])
def test_cached_generation_equals_the_teacher_forced_pass(settings, n_codebooks):
    lm, zero = make_lm(n_codebooks, max_positions=40, **settings), torch.tensor([0])
    texts = [torch.arange(length) % N_SYMBOLS for length in (3, 8, 25)]
    speaker, language, bounds = torch.tensor([0, 1, -1]), torch.tensor([0, 1, 0]), [9, 6, 30]
    with torch.no_grad():
        lm.heads[0].weight[lm.end] *= 4
    made = lm.generate(texts, speaker, language, bounds, GREEDY, with_states=True)
    without = lm.generate(texts[:2], speaker[:2], language[:2], bounds[:2], GREEDY)
    for i, (ids, generated) in enumerate(zip(texts, made, strict=True)):
        bound = min(bounds[i], 40 - CONDITIONS - len(ids) - n_codebooks)
        with torch.no_grad():
            expected = greedy_without_cache(lm, ids, int(speaker[i]), int(language[i]), bound)
            states = lm.frame_states(ids[None], torch.tensor([len(ids)]), generated.codes[None],
                                     zero + generated.codes.shape[1], speaker[i : i + 1], language[i : i + 1])
        assert generated.codes.tolist() == expected
        torch.testing.assert_close(generated.states, states[0], atol=1e-4, rtol=0)
    for generated, plain in zip(made, without, strict=False):
        assert plain.states is None
        assert plain.codes.equal(generated.codes)


@every_backbone
@pytest.mark.parametrize("n_codebooks", [1, 3])
def test_the_state_of_a_frame_has_seen_all_its_codes_and_those_before(settings, n_codebooks):
    lm, batch = make_lm(n_codebooks, **settings), random_batch(n_codebooks, [4], [8])
    states = lm.frame_states(**batch)
    for k in range(n_codebooks):
        changed = batch | {"codes": batch["codes"].clone()}
        changed["codes"][0, k, 4] = (changed["codes"][0, k, 4] + 1) % CODEBOOK_SIZE
        touched = ((lm.frame_states(**changed) - states)[0].abs().amax(0) > 1e-4).tolist()
        first = max(0, 4 - (n_codebooks - 1 - k))  # frame t is heard until codebook 0 of frame t + K - 1
        assert touched == [False] * first + [True] * (8 - first)


@every_backbone
def test_frames_that_leave_no_room_for_the_last_codes(settings):
    lm = make_lm(2, max_positions=12, **settings)
    batch = random_batch(2, [5], [4])
    assert lm.positions_for(5, 4) == lm.state_positions_for(5, 4) - 1 == 12
    lm(**batch)
    with pytest.raises(ValueError, match="13 positions, the model has 12"):
        lm.frame_states(**batch)


@every_backbone
def test_gradient_checkpointing_changes_no_gradient(settings):
    gradients = []
    for checkpointing in (False, True):
        lm = make_lm(2, gradient_checkpointing=checkpointing, **settings).train()
        logits, targets = lm(**random_batch(2, [4, 6], [3, 5]))
        F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=-100).backward()
        gradients.append([p.grad for p in lm.parameters() if p.grad is not None])
    assert len(gradients[0]) > 25
    torch.testing.assert_close(gradients[0], gradients[1])


@every_backbone
def test_codes_and_text_are_learnt_by_heart(settings):
    lm = make_lm(2, hidden_size=32, **(settings | ({"head_size": 8} if "head_size" in settings else {})))
    batch = random_batch(2, [6, 9, 4], [11, 5, 8])
    optimizer = torch.optim.AdamW(lm.parameters(), 1e-2, weight_decay=0)
    for _ in range(150):
        logits, targets, text_logits, text_targets = lm(**batch, with_text=True)
        losses = [F.cross_entropy(a.flatten(0, 2), b.flatten(), ignore_index=-100)
                  for a, b in ((logits, targets), (text_logits, text_targets))]
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        if max(losses) < 0.02:
            break
    assert max(losses) < 0.1
    texts = [text[:length] for text, length in zip(batch["text"], batch["text_lengths"], strict=True)]
    made = lm.eval().generate(texts, batch["speaker"], batch["language"], [30] * 3, GREEDY)
    for generated, codes, length in zip(made, batch["codes"], batch["code_lengths"], strict=True):
        assert generated.codes.equal(codes[:, :length])


def test_a_symbol_is_predicted_from_what_stands_before_it():
    lm, batch = make_lm(2), random_batch(2, [5], [3])
    _, _, logits, _ = lm(**batch, with_text=True)
    changed = batch | {"text": batch["text"].clone()}
    changed["text"][0, 2] = (changed["text"][0, 2] + 1) % N_SYMBOLS
    _, _, others, _ = lm(**changed, with_text=True)
    assert ((logits - others)[0, 0].abs().amax(1) > 1e-4).tolist() == [False, False, False, True, True]


def test_gpt2_keeps_the_names_of_its_weights():
    names = make_lm(2).state_dict().keys()
    assert {"body.wte.weight", "body.wpe.weight", "body.h.1.attn.c_attn.weight", "body.ln_f.bias",
            "speaker_embedding.weight", "language_embedding.weight", "code_embeddings.1.weight",
            "heads.1.weight"} < names
    assert {name.split(".")[0] for name in names} == {
        "body", "speaker_embedding", "language_embedding", "code_embeddings", "heads"}


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
         "head_dim": 8, "intermediate_size": 40, "max_position_embeddings": 100, "vocab_size": 50,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
PRETRAINED = {"backbone": "qwen3", "n_kv_heads": 1, "head_size": 8, "intermediate_size": 40, "rope_theta": 1e6}
MODELS = {"qwen3": (Qwen3Config, Qwen3Model, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaModel, LlamaForCausalLM)}


def save_model(kind: str, folder, with_head: bool = False, dtype=torch.float32, **changes) -> dict:
    torch.manual_seed(5)
    config_class, body_class, head_class = MODELS[kind]
    eps = {"qwen3": 1e-6, "llama": 1e-5}[kind]
    model = (head_class if with_head else body_class)(config_class(**SIZES | {"rms_norm_eps": eps} | changes))
    model.to(dtype).save_pretrained(folder)
    return (model.model if with_head else model).state_dict()


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("with_head", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_transformer_weight_is_kept_bit_for_bit(tmp_path, kind, with_head, dtype):
    theirs = save_model(kind, tmp_path / "model", with_head, dtype)
    lm = make_lm(**PRETRAINED | {"backbone": kind})
    symbols = lm.body.get_input_embeddings().weight.clone()
    lm.load_pretrained(tmp_path / "model")
    ours = lm.body.state_dict()
    assert ours.keys() == theirs.keys()
    assert len(ours) > 15
    for name, weights in ours.items():
        assert weights.dtype == torch.float32
        assert torch.equal(weights, symbols if name == "embed_tokens.weight" else theirs[name].float()), name


def test_a_pretrained_folder_computes_what_the_library_computes(tmp_path):
    save_model("qwen3", tmp_path / "model")
    lm = make_lm(**PRETRAINED)
    lm.load_pretrained(tmp_path / "model")
    embeddings = torch.randn(2, 30, 16)
    expected = Qwen3Model.from_pretrained(tmp_path / "model")(inputs_embeds=embeddings).last_hidden_state
    torch.testing.assert_close(lm._body(embeddings), expected)


def test_folders_that_do_not_fit_are_refused(tmp_path):
    save_model("qwen3", tmp_path / "qwen3")
    save_model("llama", tmp_path / "llama")
    with pytest.raises(ValueError, match=r"llama: holds a llama, llm\.backbone is qwen3: set llm\.backbone to llama"):
        make_lm(**PRETRAINED).load_pretrained(tmp_path / "llama")
    with pytest.raises(ValueError, match=r"qwen3: holds a qwen3, llm\.backbone is gpt2: set llm\.backbone to qwen3"):
        make_lm().load_pretrained(tmp_path / "qwen3")
    with pytest.raises(ValueError, match=r"nowhere: no qwen3 in it; it needs config\.json and model\.safetensors"):
        make_lm(**PRETRAINED).load_pretrained(tmp_path / "nowhere")
    sizes = {"n_kv_heads": 2, "intermediate_size": 48, "rope_theta": None, "max_positions": 128}
    with pytest.raises(ValueError, match=(
        r"does not fit the config's llm section: num_key_value_heads 1 there, 2 here; intermediate_size 40 there, 48 "
        r"here; rope_parameters .*1000000\.0.* there, .*10000\.0.* here; max_position_embeddings 100 there, more here: "
        r"128"
    )):
        make_lm(**PRETRAINED | sizes).load_pretrained(tmp_path / "qwen3")
    (tmp_path / "qwen3/config.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="holds a None"):
        make_lm(**PRETRAINED).load_pretrained(tmp_path / "qwen3")
    shutil.rmtree(tmp_path / "qwen3")
    save_model("qwen3", tmp_path / "qwen3")
    (tmp_path / "qwen3/model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"its weights cannot be read .*; get it anew"):
        make_lm(**PRETRAINED).load_pretrained(tmp_path / "qwen3")


@pytest.mark.parametrize(("settings", "message"), [
    ({"n_kv_heads": 2}, "n_kv_heads: gpt2 has no such setting"),
    ({"rope_theta": 1e4}, "rope_theta: gpt2 has no such setting"),
    ({"backbone": "qwen3", "n_kv_heads": 5}, "n_heads 12 is no multiple of n_kv_heads 5"),
    ({"backbone": "llama", "hidden_size": 36}, "is odd; rotary positions need an even head size"),
    ({"backbone": "llama", "head_size": 7}, "multiple of 2"),
    ({"backbone": "bert"}, "Input should be 'gpt2', 'qwen3' or 'llama'"),
])
def test_settings_that_do_not_fit_a_backbone(settings, message):
    with pytest.raises(ValueError, match=message):
        TokenLMConfig(**settings)


def test_a_head_size_of_its_own_frees_the_width():
    lm = TokenLM(TokenLMConfig(backbone="qwen3", hidden_size=10, n_layers=1, n_heads=3, head_size=4), n_symbols=5,
                 n_codebooks=1, codebook_size=4, n_speakers=1, n_languages=1)
    zero = torch.tensor([0])
    assert lm.body.layers[0].self_attn.q_proj.weight.shape == (12, 10)
    assert lm.body.layers[0].mlp.up_proj.weight.shape == (30, 10)
    generated, = lm.eval().generate([torch.arange(3)], zero, zero, [5], Sampling(), torch.Generator().manual_seed(0))
    assert 1 <= generated.codes.shape[1] <= 5
