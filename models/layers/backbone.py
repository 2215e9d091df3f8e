"""The transformers a language model can be built on, from the `transformers` library: fresh, or with the weights of a
pretrained folder. All take embeddings and position ids, and see nothing behind a position.

Where position ids do not go up by one within a row, and no attention mask is given, `transformers` starts a new
sequence that sees nothing of those before it: that is how clips are packed into one row.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from torch import nn

from models.layers.recorded_attention import RECORDED, register

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

KINDS = {"gpt2": "GPT2", "qwen3": "Qwen3", "llama": "Llama"}  # how the names of their classes begin
NORM_EPS = {"qwen3": 1e-6, "llama": 1e-5}  # of the published models

# what a folder must have as the config has it: all that decides what its weights mean
ARCHITECTURE = {
    "gpt2": ["n_embd", "n_layer", "n_head", "n_positions", "n_inner", "activation_function", "layer_norm_epsilon",
             "scale_attn_weights", "scale_attn_by_inverse_layer_idx"],
    "qwen3": ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
              "intermediate_size", "rope_parameters", "hidden_act", "rms_norm_eps", "attention_bias",
              "use_sliding_window"],
    "llama": ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
              "intermediate_size", "rope_parameters", "hidden_act", "rms_norm_eps", "attention_bias", "mlp_bias"],
}


def build_backbone(
    kind: str, *, n_symbols: int, hidden_size: int, n_layers: int, n_heads: int, n_kv_heads: int | None,
    head_size: int | None, intermediate_size: int | None, rope_theta: float | None, max_positions: int, dropout: float,
    gradient_checkpointing: bool,
) -> "PreTrainedModel":
    """A transformer of `kind` (gpt2, qwen3, llama) with fresh weights; None takes the default of TokenLMConfig."""
    config_class, model_class = _classes(kind)
    special = {"vocab_size": n_symbols, "bos_token_id": None, "eos_token_id": None}
    if kind == "gpt2":
        config = config_class(
            **special, n_positions=max_positions, n_embd=hidden_size, n_layer=n_layers, n_head=n_heads,
            n_inner=intermediate_size, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
        )
    else:
        config = config_class(
            **special, max_position_embeddings=max_positions, hidden_size=hidden_size, num_hidden_layers=n_layers,
            num_attention_heads=n_heads, num_key_value_heads=n_kv_heads or n_heads,
            head_dim=head_size or hidden_size // n_heads, intermediate_size=intermediate_size or 3 * hidden_size,
            rope_parameters={"rope_type": "default", "rope_theta": rope_theta or 10_000.0},
            rms_norm_eps=NORM_EPS[kind], attention_dropout=dropout,
        )
    config._attn_implementation = RECORDED
    body = model_class(config)
    if gradient_checkpointing:
        body.gradient_checkpointing_enable({"use_reentrant": False})
    return body


def load_pretrained_backbone(body: "PreTrainedModel", folder: str | Path) -> None:
    """Takes every weight of a folder in hub format (config.json, model.safetensors) but the table of its words.

    ValueError if the folder holds no whole model of the kind of `body`, or one of other sizes.
    """
    folder, kind = Path(folder), body.config.model_type
    mend = "run: python3 download.py gpt2" if kind == "gpt2" else "it needs config.json and model.safetensors"
    again = "delete it, then: python3 download.py gpt2" if kind == "gpt2" else "get it anew"
    if not (folder / "config.json").is_file():
        name = "GPT-2" if kind == "gpt2" else kind
        raise ValueError(f"{folder}: no {name} in it; {mend} (or set llm.pretrained to null)")
    _check_architecture(body.config, _read_config(folder, kind), folder)
    try:
        pretrained, report = type(body).from_pretrained(folder, local_files_only=True, use_safetensors=True,
                                                        output_loading_info=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder}: its weights cannot be read ({reason}); {again}") from error
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{folder}: {len(missing)} weights are missing, first {missing[0]}; {again}")
    pretrained.set_input_embeddings(nn.Embedding.from_pretrained(body.get_input_embeddings().weight))
    body.load_state_dict(pretrained.state_dict())


def _read_config(folder: Path, kind: str) -> "PreTrainedConfig":
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: not valid JSON ({error})") from error
    if not isinstance(values, dict) or values.get("model_type") != kind:
        theirs = values.get("model_type") if isinstance(values, dict) else None
        known = f"set llm.backbone to {theirs}" if theirs in KINDS else f"llm.pretrained takes {', '.join(KINDS)}"
        raise ValueError(f"{folder}: holds a {theirs}, llm.backbone is {kind}: {known}")
    return _classes(kind)[0].from_dict(values)


def empty_cache(body: "PreTrainedModel") -> "DynamicCache":
    """What keeps keys and values while a backbone is read step by step."""
    from transformers import DynamicCache

    return DynamicCache(config=body.config)


def _classes(kind: str) -> tuple[type, type]:
    """Config and model of a kind of backbone; the library takes seconds to load, and many voices speak without it."""
    import transformers

    register()
    return getattr(transformers, f"{KINDS[kind]}Config"), getattr(transformers, f"{KINDS[kind]}Model")


def _check_architecture(ours: "PreTrainedConfig", theirs: "PreTrainedConfig", folder: Path) -> None:
    pairs = {key: (_value(theirs, key), _value(ours, key)) for key in ARCHITECTURE[ours.model_type]}
    different = [f"{key} {there} there, {here} here" for key, (there, here) in pairs.items() if there != here]
    # rotary positions have no weights: a model can be used for fewer than it was trained for
    if ours.model_type != "gpt2" and theirs.max_position_embeddings < ours.max_position_embeddings:
        different.append(f"max_position_embeddings {theirs.max_position_embeddings} there, more here: "
                         f"{ours.max_position_embeddings}")
    if different:
        raise ValueError(f"{folder}: does not fit the config's llm section: {'; '.join(different)}")


def _value(config: "PreTrainedConfig", key: str) -> object:
    value = getattr(config, key)
    if key == "n_inner":
        return value or 4 * config.n_embd
    if key == "rope_parameters":
        return {name: float(part) if name == "rope_theta" else part for name, part in value.items()}
    return value
