"""GPT-2 from phonemes to codec codes: one sequence [language, speaker, text, codes], read from left to right."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import DynamicCache, GPT2Config, GPT2Model

from config import TokenLMConfig
from models.layers.delay import delay, steps_for, undelay
from models.layers.sampling import Sampling, sample

CONDITIONS = 2  # language and speaker, one position each before the text
ARCHITECTURE = ["n_embd", "n_layer", "n_head", "n_positions", "n_inner", "activation_function", "layer_norm_epsilon",
                "scale_attn_weights", "scale_attn_by_inverse_layer_idx"]


@dataclass
class Generated:
    """What the model said for one text."""

    codes: Tensor
    """(n_codebooks, frames)"""
    finish_reason: str
    """"stop": the model ended by itself; "length": the bound was reached."""


class TokenLM(nn.Module):
    """A GPT-2 body with its transformer weights, its text table and head replaced by embeddings and heads of our own.

    Text ids are the frontend's. Codebook k has the codec's codes 0..codebook_size-1 and, apart from them, begin,
    end and pad ids. Padding stands on the right, where a causal model cannot see it.
    """

    def __init__(
        self, config: TokenLMConfig, *, n_symbols: int, n_codebooks: int, codebook_size: int,
        n_speakers: int, n_languages: int,
    ):
        super().__init__()
        self.config, self.n_codebooks, self.codebook_size = config, n_codebooks, codebook_size
        self.begin, self.end, self.pad = codebook_size, codebook_size + 1, codebook_size + 2
        self.body = GPT2Model(GPT2Config(
            vocab_size=n_symbols, bos_token_id=None, eos_token_id=None, n_positions=config.max_positions,
            n_embd=config.hidden_size, n_layer=config.n_layers, n_head=config.n_heads,
            resid_pdrop=config.dropout, embd_pdrop=config.dropout, attn_pdrop=config.dropout,
        ))
        if config.gradient_checkpointing:
            self.body.gradient_checkpointing_enable({"use_reentrant": False})
        width = config.hidden_size
        self.speaker_embedding = nn.Embedding(n_speakers, width)
        self.language_embedding = nn.Embedding(n_languages, width)
        self.code_embeddings = nn.ModuleList(nn.Embedding(codebook_size + 3, width) for _ in range(n_codebooks))
        # a head never has to say begin or pad
        self.heads = nn.ModuleList(nn.Linear(width, codebook_size + 2, bias=False) for _ in range(n_codebooks))
        for module in [self.speaker_embedding, self.language_embedding,
                       *self.code_embeddings, *self.heads]:
            nn.init.normal_(module.weight, std=0.02)

    def load_pretrained(self, folder: str | Path) -> None:
        """Takes every transformer weight of a GPT-2 folder in hub format (config.json, model.safetensors).

        ValueError if the folder holds no whole GPT-2, or one of another architecture than the config's.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder}: no GPT-2 in it; run: python3 download.py gpt2 (or set llm.pretrained to null)")
        try:
            values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{folder / 'config.json'}: not valid JSON ({error})") from error
        if values.get("model_type") != "gpt2":
            raise ValueError(f"{folder}: holds a {values.get('model_type')}, llm.pretrained needs a gpt2")
        theirs = GPT2Config.from_dict(values)
        different = [f"{key} {getattr(theirs, key)} there, {getattr(self.body.config, key)} here"
                     for key in ARCHITECTURE if getattr(theirs, key) != getattr(self.body.config, key)]
        if different:
            raise ValueError(f"{folder}: does not fit the config's llm section: {'; '.join(different)}")
        try:
            pretrained, report = GPT2Model.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{folder}: its weights cannot be read ({reason}); delete it, then: "
                             "python3 download.py gpt2") from error
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"{folder}: {len(missing)} weights are missing, first {missing[0]}; delete it, then: "
                             "python3 download.py gpt2")
        self.body.load_state_dict(pretrained.state_dict() | {"wte.weight": self.body.wte.weight})

    def positions_for(self, n_symbols: int | Tensor, frames: int | Tensor) -> int | Tensor:
        """How many of the model's positions a clip takes."""
        return CONDITIONS + n_symbols + steps_for(frames, self.n_codebooks)

    def prefix(self, text: Tensor, speaker: Tensor, language: Tensor) -> Tensor:
        """text (B, L), speaker (B,), language (B,) -> embeddings (B, 2 + L, D)."""
        conditions = torch.stack([self.language_embedding(language), self.speaker_embedding(speaker)], dim=1)
        return torch.cat([conditions, self.body.wte(text)], dim=1)

    def embed_codes(self, steps: Tensor) -> Tensor:
        """delayed codes (B, K, S) -> summed embeddings (B, S, D)."""
        return sum(embedding(steps[:, k]) for k, embedding in enumerate(self.code_embeddings))

    def logits(self, hidden_states: Tensor) -> Tensor:
        """(B, S, D) -> (B, K, S, codebook_size + 2): the codes, begin (never right) and end."""
        return torch.stack([head(hidden_states) for head in self.heads], dim=1)

    def hidden_states(
        self, text: Tensor, text_lengths: Tensor, codes: Tensor, code_lengths: Tensor,
        speaker: Tensor, language: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Teacher forcing. text (B, L), codes (B, K, T) -> hidden states (B, S, D) that predict the delayed codes,
        and those delayed codes (B, K, S)."""
        steps = delay(codes, code_lengths, self.begin, self.end, self.pad)  # (B, K, S)
        B, K, S = steps.shape
        begin = torch.full((B, K, 1), self.begin, device=steps.device)
        inputs = self.embed_codes(torch.cat([begin, steps[:, :, :-1]], dim=2))  # (B, S, D)
        prefix = self.prefix(text, speaker, language)  # (B, 2 + L, D)
        # the codes of a clip follow its own text at once, all padding comes after them
        whole = torch.cat([prefix, inputs], dim=1)
        text_end = (CONDITIONS + text_lengths).unsqueeze(1)  # (B, 1)
        T = int(self.positions_for(text_lengths, code_lengths).max())
        if self.config.max_positions < T:
            raise ValueError(f"{T} positions, the model has {self.config.max_positions}: shorter clips are needed")
        place = torch.arange(T, device=text.device).unsqueeze(0)
        from_codes = place >= text_end
        source = torch.where(from_codes, place - text_end + prefix.shape[1], place).clamp(max=whole.shape[1] - 1)
        packed = whole.gather(1, source.unsqueeze(2).expand(-1, -1, whole.shape[2]))
        hidden = self.body(inputs_embeds=packed, use_cache=False).last_hidden_state
        back = (text_end + torch.arange(S, device=text.device)).clamp(max=T - 1)
        return hidden.gather(1, back.unsqueeze(2).expand(-1, -1, hidden.shape[2])), steps

    def forward(
        self, text: Tensor, text_lengths: Tensor, codes: Tensor, code_lengths: Tensor,
        speaker: Tensor, language: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, K, S, codebook_size + 2) and targets (B, K, S), -100 where nothing is to be predicted."""
        hidden, steps = self.hidden_states(text, text_lengths, codes, code_lengths, speaker, language)
        targets = steps.masked_fill((steps == self.begin) | (steps == self.pad), -100)
        return self.logits(hidden), targets

    @torch.inference_mode()
    def generate(
        self, text: list[Tensor], speaker: Tensor, language: Tensor, max_frames: list[int],
        sampling: Sampling, generator: torch.Generator | None = None,
    ) -> list[Generated]:
        """Codes for every text (a list of id tensors (L,)), with a KV cache; each at most `max_frames` long.

        Texts of different lengths are padded on the left, with positions and attention mask to match.
        """
        B, K, device = len(text), self.n_codebooks, speaker.device
        lengths = torch.tensor([len(ids) for ids in text], device=device)
        longest = int(lengths.max())
        prompt = self.heads[0].weight.new_zeros(B, CONDITIONS + longest, self.config.hidden_size)
        mask = torch.zeros(B, CONDITIONS + longest, dtype=torch.long, device=device)
        for i, ids in enumerate(text):
            start = longest - len(ids)
            prompt[i, start:] = self.prefix(ids[None], speaker[i : i + 1], language[i : i + 1])[0]
            mask[i, start:] = 1
        bound = torch.tensor(max_frames, device=device)
        limit = self.config.max_positions - CONDITIONS - lengths - max(1, K - 1)
        bound = torch.minimum(bound, limit)
        if int(bound.min()) < 1:
            raise ValueError(f"a text of {longest} symbols leaves no room for speech: split it into sentences")

        begin = torch.full((B, K, 1), self.begin, device=device)
        step_input = torch.cat([prompt, self.embed_codes(begin)], dim=1)
        mask = F.pad(mask, (0, 1), value=1)
        cache = DynamicCache(config=self.body.config)
        frames = torch.full((B,), -1, device=device)  # unknown until codebook 0 says end
        steps: list[Tensor] = []
        k_index = torch.arange(K, device=device)
        total = int(steps_for(bound, K).max())
        for step in range(total):
            # a text whose bound is reached goes along with the others of its batch, past the model's last position
            position = (mask.cumsum(1) - 1).clamp(0, self.config.max_positions - 1)[:, -step_input.shape[1] :]
            output = self.body(inputs_embeds=step_input, attention_mask=mask, position_ids=position,
                               past_key_values=cache, use_cache=True)
            logits = self.logits(output.last_hidden_state[:, -1:])[:, :, 0]  # (B, K, V)
            drawn = self._draw(logits, steps, step, frames, bound, sampling, generator)
            ended = (frames < 0) & (drawn[:, 0] == self.end)
            frames = torch.where(ended, step, frames)
            # what the training sequence holds in these places
            time = step - k_index
            drawn = torch.where((time < 0).unsqueeze(0), self.begin, drawn)
            after = (frames >= 0).unsqueeze(1) & (time.unsqueeze(0) >= frames.unsqueeze(1))
            is_end = (k_index == 0).unsqueeze(0) & (frames == step).unsqueeze(1)
            drawn = torch.where(after, torch.where(is_end, self.end, self.pad), drawn)
            steps.append(drawn)
            if bool(((frames >= 0) & (step + 1 >= steps_for(frames, K))).all()):
                break
            step_input = self.embed_codes(drawn.unsqueeze(2))
            mask = F.pad(mask, (0, 1), value=1)
        codes = torch.stack(steps, dim=2)
        results = []
        for i in range(B):
            count = int(frames[i])
            reason = "length" if count == int(bound[i]) else "stop"
            results.append(Generated(undelay(codes[i : i + 1], count)[0].clamp(max=self.codebook_size - 1), reason))
        return results

    def _draw(self, logits, steps, step, frames, bound, sampling, generator) -> Tensor:
        """One code per codebook (B, K); `end` only where it may come, and for certain at the bound."""
        logits = logits.clone()
        logits[:, :, self.begin] = -torch.inf
        logits[:, 1:, self.end] = -torch.inf
        if step == 0:
            logits[:, 0, self.end] = -torch.inf  # speech has at least one frame
        window = steps[-sampling.repetition_window :]
        recent = torch.stack(window, dim=2) if window else logits.new_zeros(*logits.shape[:2], 0)
        drawn = sample(logits, sampling, recent, generator)
        at_bound = (frames < 0) & (bound <= step)
        drawn[:, 0] = torch.where(at_bound, self.end, drawn[:, 0])
        return drawn
