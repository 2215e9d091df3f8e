"""A language model from phonemes to codec codes: one sequence [language, speaker, text, codes], read left to right.

The codes stand in the delay pattern: one step, which is one position of the sequence, for all codebooks. A recording
can be the voice in two ways. As a prompt, where its words are known: its text before the text, its codes before the
codes, like the beginning of one clip, which needs no training of its own. As a voice, where they are not: its codes
between speaker and text, which the model must have been trained with.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import TokenLMConfig
from models.layers.backbone import build_backbone, empty_cache, load_pretrained_backbone
from models.layers.delay import delay, steps_for, undelay
from models.layers.packing import pack, unpack
from models.layers.recorded_attention import record
from models.layers.sampling import Sampling, sample

if TYPE_CHECKING:
    from transformers import DynamicCache

CONDITIONS = 2  # language and speaker, one position each before the text
IGNORED = -100
"""The target of what is not to be predicted, as in torch's cross-entropy."""


@dataclass
class HiddenStates:
    """One teacher-forced pass through the transformer. Behind a clip's own end nothing has a meaning."""

    steps: Tensor
    """(B, K, S) the delayed codes"""
    codes: Tensor
    """(B, S, D) the states that predict them"""
    text: Tensor
    """(B, L, D) the states that predict the text's symbols"""
    frames: Tensor | None
    """(B, D, T) for each code frame the first state that has seen all of its codebooks; zeros behind the end"""
    attention: Tensor | None
    """(B, S, P) logits of the taught head: where in the clip's P positions it looks to predict each step"""
    text_start: Tensor
    """(B,) the position of the text's first symbol"""


@dataclass
class Generated:
    """What the model said for one text."""

    codes: Tensor
    """(n_codebooks, frames)"""
    finish_reason: str | None
    """"stop": the model ended by itself; "length": the bound was reached; None: it has not ended yet."""
    states: Tensor | None = None
    """(D, frames), as `TokenLM.frame_states` gives them for these codes"""


class TokenLM(nn.Module):
    """A transformer whose table of words is the frontend's symbols, with embeddings and heads of our own for codes.

    Text ids are the frontend's. Codebook k has the codec's codes 0..codebook_size-1 and, apart from them, begin,
    end and pad ids. Padding stands on the right, where a causal model cannot see it. Speaker -1 is none.
    """

    def __init__(
        self, config: TokenLMConfig, *, n_symbols: int, n_codebooks: int, codebook_size: int,
        n_speakers: int, n_languages: int,
    ):
        super().__init__()
        self.config, self.n_codebooks, self.codebook_size = config, n_codebooks, codebook_size
        self.begin, self.end, self.pad = codebook_size, codebook_size + 1, codebook_size + 2
        sizes = config.model_dump(exclude={"backbone", "pretrained"})
        self.body = build_backbone(config.backbone, n_symbols=n_symbols, **sizes)
        self.taught_layer = config.n_layers // 2
        width = config.hidden_size
        self.speaker_embedding = nn.Embedding(n_speakers, width)
        self.language_embedding = nn.Embedding(n_languages, width)
        self.code_embeddings = nn.ModuleList(nn.Embedding(codebook_size + 3, width) for _ in range(n_codebooks))
        # a head never has to say begin or pad
        self.heads = nn.ModuleList(nn.Linear(width, codebook_size + 2, bias=False) for _ in range(n_codebooks))
        for module in [self.speaker_embedding, self.language_embedding,
                       *self.code_embeddings, *self.heads]:
            nn.init.normal_(module.weight, std=0.02)

    @property
    def blocks(self) -> str:
        """The name of the ModuleList of the transformer's layers."""
        return "body.h" if self.config.backbone == "gpt2" else "body.layers"

    def load_pretrained(self, folder: str | Path) -> None:
        """Takes every transformer weight of a folder in hub format (config.json, model.safetensors).

        ValueError if the folder holds no whole model of the config's backbone, or one of another architecture.
        """
        load_pretrained_backbone(self.body, folder)

    def positions_for(self, n_symbols: int | Tensor, frames: int | Tensor) -> int | Tensor:
        """How many of the model's positions a clip takes."""
        return CONDITIONS + n_symbols + steps_for(frames, self.n_codebooks)

    def voice_positions_for(self, frames: int | Tensor) -> int | Tensor:
        """How many positions the code frames of a voice take."""
        return steps_for(frames, self.n_codebooks) * (frames > 0)

    def state_positions_for(self, n_symbols: int | Tensor, frames: int | Tensor) -> int | Tensor:
        """How many positions a clip takes where the states of its frames are wanted: the last codes are read, too."""
        return CONDITIONS + n_symbols + frames + self.n_codebooks

    def prefix(self, text: Tensor, speaker: Tensor, language: Tensor, voice: Tensor | None = None) -> Tensor:
        """text (B, L), speaker (B,) or -1, language (B,), voice codes (B, K, V frames) -> embeddings (B, P, D)."""
        parts = [self.conditions(speaker, language), self.embed_text(text)]
        if voice is not None:
            lengths = torch.full((len(voice),), voice.shape[2], device=voice.device)
            parts.insert(1, self.embed_codes(self._delay(voice, lengths)))
        return torch.cat(parts, dim=1)

    def conditions(self, speaker: Tensor, language: Tensor) -> Tensor:
        """speaker (B,) or -1, language (B,) -> embeddings (B, 2, D)."""
        known = (speaker >= 0).unsqueeze(1)
        return torch.stack(
            [self.language_embedding(language), self.speaker_embedding(speaker.clamp(min=0)) * known], dim=1)

    def embed_text(self, text: Tensor) -> Tensor:
        """text (B, L) -> embeddings (B, L, D)."""
        return self.body.get_input_embeddings()(text)

    def embed_codes(self, steps: Tensor) -> Tensor:
        """delayed codes (B, K, S) -> summed embeddings (B, S, D)."""
        return sum(embedding(steps[:, k]) for k, embedding in enumerate(self.code_embeddings))

    def logits(self, hidden_states: Tensor) -> Tensor:
        """(B, S, D) -> (B, K, S, codebook_size + 2): the codes, begin (never right) and end."""
        return torch.stack([head(hidden_states) for head in self.heads], dim=1)

    def targets(self, steps: Tensor) -> Tensor:
        """delayed codes (B, K, S) -> what the logits are to say, -100 where nothing is to be predicted."""
        return steps.masked_fill((steps == self.begin) | (steps == self.pad), IGNORED)

    def text_logits(self, hidden_states: Tensor) -> Tensor:
        """(B, L, D) -> (B, 1, L, n_symbols): the table of symbols is its own head, as in GPT-2."""
        return F.linear(hidden_states, self.body.get_input_embeddings().weight).unsqueeze(1)

    def states(
        self, text: Tensor, text_lengths: Tensor, codes: Tensor, code_lengths: Tensor,
        speaker: Tensor, language: Tensor, *, voice: Tensor | None = None, voice_lengths: Tensor | None = None,
        row: Tensor | None = None, offset: Tensor | None = None, with_frames: bool = False,
        with_attention: bool = False,
    ) -> HiddenStates:
        """Teacher forcing: text (B, L), codes (B, K, T), speaker and language (B,) through the transformer.

        `voice` (B, K, V) are codes of other recordings of the voices, `voice_lengths` (B,) their frames, 0 for none.
        With `row` and `offset` (B,), clip b goes through it in that row from that position on, behind other clips,
        none of which sees another. `with_frames` also reads the last codes (`state_positions_for` positions), which
        takes clips in rows of their own; `with_attention` gives what the taught head looks at. ValueError for more
        positions than the model has.
        """
        steps = self._delay(codes, code_lengths)  # (B, K, S)
        B, K, S = steps.shape
        begin = torch.full((B, K, 1), self.begin, device=steps.device)
        n_inputs = codes.shape[2] + K if with_frames else S
        parts = [self.conditions(speaker, language), self.embed_text(text),
                 self.embed_codes(torch.cat([begin, steps], dim=2)[:, :, :n_inputs])]
        lengths = [torch.full_like(text_lengths, CONDITIONS), text_lengths]
        if voice is not None and voice.shape[2]:
            parts.insert(1, self.embed_codes(self._delay(voice, voice_lengths)))
            lengths.insert(1, self.voice_positions_for(voice_lengths))
        ends = torch.stack(lengths).cumsum(0)  # (parts - 1, B)
        positions = self.state_positions_for if with_frames else self.positions_for
        total = ends[-1] + positions(0, code_lengths) - CONDITIONS  # (B,)
        clips = _joined(parts, ends, int(total.max()))  # (B, T, D)
        position_ids = None
        if row is not None:
            assert not with_frames, "offsets of packed clips leave no room for the last codes"
            clips, position_ids = pack(clips, total, row, offset)

        def of_clips(x: Tensor) -> Tensor:
            return x if row is None else unpack(x, total, row, offset)

        with record(self.taught_layer) if with_attention else nullcontext() as head:
            hidden = of_clips(self._body(clips, position_ids))

        def at(first: Tensor, count: int) -> Tensor:
            places = first.unsqueeze(1) + torch.arange(count, device=text.device)
            return _take(hidden, places.clamp(max=hidden.shape[1] - 1))

        frames = None
        if with_frames:
            own = torch.arange(codes.shape[2], device=text.device) < code_lengths.unsqueeze(1)  # (B, T)
            frames = (at(ends[-1] + K, codes.shape[2]) * own.unsqueeze(2)).transpose(1, 2)
        attention = None
        if with_attention:
            query, key = of_clips(head.query), of_clips(head.key)
            asking = ends[-1].unsqueeze(1) + torch.arange(S, device=text.device)  # (B, S)
            future = torch.arange(key.shape[1], device=text.device) > asking.unsqueeze(2)
            queries = _take(query, asking.clamp(max=query.shape[1] - 1))
            attention = (queries @ key.transpose(1, 2)).masked_fill(future, -torch.inf)
        return HiddenStates(steps, at(ends[-1], S), at(ends[-2] - 1, text.shape[1]), frames, attention, ends[-2])

    def _delay(self, codes: Tensor, lengths: Tensor) -> Tensor:
        return delay(codes, lengths, self.begin, self.end, self.pad)

    def _body(self, embeddings: Tensor, positions: Tensor | None = None) -> Tensor:
        """(R, P, D) -> last hidden states (R, P, D)."""
        P = embeddings.shape[1]
        if self.config.max_positions < P:
            what, mend = ("", "shorter clips are needed") if positions is None else (
                "a packed row of ", "pack fewer clips into it")
            raise ValueError(f"{what}{P} positions, the model has {self.config.max_positions}: {mend}")
        return self.body(inputs_embeds=embeddings, position_ids=positions, use_cache=False).last_hidden_state

    def hidden_states(
        self, text: Tensor, text_lengths: Tensor, codes: Tensor, code_lengths: Tensor,
        speaker: Tensor, language: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The states (B, S, D) that predict the delayed codes, and those delayed codes (B, K, S)."""
        states = self.states(text, text_lengths, codes, code_lengths, speaker, language)
        return states.codes, states.steps

    def frame_states(
        self, text: Tensor, text_lengths: Tensor, codes: Tensor, code_lengths: Tensor,
        speaker: Tensor, language: Tensor,
    ) -> Tensor:
        """States (B, D, T), one a code frame, zeros behind a clip's end.

        That of frame t stands where step t + n_codebooks - 1 of the delay pattern is the input: it is the first to have
        seen all codebooks of the frame, and has seen all before it and of the next frames what is already said.
        """
        return self.states(text, text_lengths, codes, code_lengths, speaker, language, with_frames=True).frames

    def forward(
        self, text: Tensor, text_lengths: Tensor, codes: Tensor, code_lengths: Tensor,
        speaker: Tensor, language: Tensor, *, voice: Tensor | None = None, voice_lengths: Tensor | None = None,
        row: Tensor | None = None, offset: Tensor | None = None, with_text: bool = False,
        alignment: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Logits (B, K, S, codebook_size + 2) and targets (B, K, S), -100 where nothing is to be predicted.

        Packed clips (`row`, `offset`, see `states`) come as one of all their steps, B = 1, without padding. `with_text`
        adds the text's logits (B, 1, L, n_symbols) and targets (B, 1, L). `alignment` (B, T), the symbol of the text
        that each code frame is of or -100, adds where the taught head looks, logits (B, 1, S, positions), and where it
        should, (B, 1, S).
        """
        states = self.states(text, text_lengths, codes, code_lengths, speaker, language, voice=voice,
                             voice_lengths=voice_lengths, row=row, offset=offset,
                             with_attention=alignment is not None)
        pairs = [(self.logits, states.codes, self.targets(states.steps))]
        if with_text:
            padding = torch.arange(text.shape[1], device=text.device) >= text_lengths.unsqueeze(1)
            pairs.append((self.text_logits, states.text, text.masked_fill(padding, IGNORED).unsqueeze(1)))
        if alignment is not None:
            S, T = states.codes.shape[1], alignment.shape[1]
            unknown = (alignment < 0) | (torch.arange(T, device=text.device) >= code_lengths.unsqueeze(1))
            places = (alignment + states.text_start.unsqueeze(1)).masked_fill(unknown, IGNORED)
            pairs.append((lambda rows: rows.unsqueeze(1), states.attention, F.pad(places, (0, S - T), value=IGNORED)
                          .unsqueeze(1)))
        output = []
        for head, hidden, targets in pairs:
            if row is not None:
                asked = (targets != IGNORED).any(1)  # (B, S)
                hidden, targets = hidden[asked].unsqueeze(0), targets.transpose(1, 2)[asked].T.unsqueeze(0)
            output += [head(hidden), targets]
        return tuple(output)

    @torch.inference_mode()
    def generate(
        self, text: list[Tensor], speaker: Tensor, language: Tensor, max_frames: list[int],
        sampling: Sampling, generator: torch.Generator | None = None, *,
        prompts: list[Tensor | None] | None = None, voices: list[Tensor | None] | None = None,
        with_states: bool = False,
    ) -> list[Generated]:
        """Codes for every text (a list of id tensors (L,)), with a KV cache; each at most `max_frames` long.

        `prompts`: codes (n_codebooks, frames) of a recording, or None, for each text, which begins with what they say;
        the speech goes on from them in their voice, and they are not part of what is returned. `voices`: the same of
        recordings of which the text says nothing. `with_states` adds the states of the frames. Sequences of different
        lengths are padded on the left, with positions and attention mask to match. ValueError for a text, prompt or
        voice that leaves no room.
        """
        B, K, device = len(text), self.n_codebooks, speaker.device
        given = list(zip(text, prompts or [None] * B, voices or [None] * B, strict=True))
        bound = self.bounds(given, max_frames, with_states, device)
        starts = [self.start(*one, speaker[i : i + 1], language[i : i + 1]) for i, one in enumerate(given)]
        longest = max(len(start) for start, _ in starts)
        step_input = torch.stack([F.pad(start, (0, 0, longest - len(start), 0)) for start, _ in starts])  # (B, P, D)
        lengths = torch.tensor([len(start) for start, _ in starts], device=device).unsqueeze(1)
        mask = (torch.arange(longest, device=device) >= longest - lengths).long()
        late = torch.stack([columns for _, columns in starts])  # (B, K, K - 1 or 1)

        cache = empty_cache(self.body)
        frames = torch.full((B,), -1, device=device)  # unknown until codebook 0 says end
        steps: list[Tensor] = []
        states: list[Tensor] = []
        k_index = torch.arange(K, device=device)
        for step in range(int(steps_for(bound, K).max())):
            hidden = self._next(step_input, mask, cache)  # (B, D)
            if with_states:
                states.append(hidden)
            logits = self.logits(hidden.unsqueeze(1))[:, :, 0]  # (B, K, V)
            drawn = self._draw(logits, steps, step, frames, bound, sampling, generator)
            ended = (frames < 0) & (drawn[:, 0] == self.end)
            frames = torch.where(ended, step, frames)
            # what the training sequence holds in these places
            time = step - k_index
            drawn = torch.where((time < 0).unsqueeze(0), late[:, :, min(step, late.shape[2] - 1)], drawn)
            after = (frames >= 0).unsqueeze(1) & (time.unsqueeze(0) >= frames.unsqueeze(1))
            is_end = (k_index == 0).unsqueeze(0) & (frames == step).unsqueeze(1)
            drawn = torch.where(after, torch.where(is_end, self.end, self.pad), drawn)
            steps.append(drawn)
            step_input = self.embed_codes(drawn.unsqueeze(2))
            mask = F.pad(mask, (0, 1), value=1)
            if bool(((frames >= 0) & (step + 1 >= steps_for(frames, K))).all()):
                break
        if with_states and K > 1:
            states.append(self._next(step_input, mask, cache))
        codes = torch.stack(steps, dim=2)
        results = []
        for i, count in enumerate(frames.tolist()):
            reason = "length" if count == int(bound[i]) else "stop"
            made = Generated(undelay(codes[i : i + 1], count)[0].clamp(max=self.codebook_size - 1), reason)
            if with_states:
                made.states = torch.stack([state[i] for state in states[K : K + count]], dim=1)
            results.append(made)
        return results

    def bounds(self, given: list[tuple], max_frames: list[int], with_states: bool, device) -> Tensor:
        """(B,) the most frames that each text may have and that the positions leave room for."""
        positions = self.state_positions_for if with_states else self.positions_for
        bounds = []
        for (ids, *recordings), most in zip(given, max_frames, strict=True):
            prompt, voice = (0 if codes is None else codes.shape[1] for codes in recordings)
            taken = positions(len(ids), prompt) + self.voice_positions_for(voice)
            bounds.append(min(most, self.config.max_positions - taken))
            if bounds[-1] < 1:
                beside = f" and a voice of {prompt + voice} frames" if prompt + voice else ""
                mend = "use a shorter recording, or split the text" if beside else "split it into sentences"
                raise ValueError(f"a text of {len(ids)} symbols{beside} leaves no room for speech: {mend}")
        return torch.tensor(bounds, device=device)

    def start(
        self, ids: Tensor, prompt: Tensor | None, voice: Tensor | None, speaker: Tensor, language: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The embeddings (P, D) of what is given before the first new frame, and (K, K - 1 or 1) what codebooks after
        the first are given in the next steps, being late."""
        columns = torch.full((1, self.n_codebooks, steps_for(0, self.n_codebooks) + 1), self.begin, device=ids.device)
        if prompt is not None:
            delayed = self._delay(prompt[None], torch.tensor([prompt.shape[1]], device=ids.device))
            columns = torch.cat([columns[:, :, :1], delayed], dim=2)
        count = columns.shape[2] - steps_for(0, self.n_codebooks)
        before = self.prefix(ids[None], speaker, language, None if voice is None else voice[None])
        return torch.cat([before, self.embed_codes(columns[:, :, :count])], dim=1)[0], columns[0, :, count:]

    def _next(self, step_input: Tensor, mask: Tensor, cache: "DynamicCache") -> Tensor:
        """The last state (B, D) after (B, P, D) more positions; mask (B, positions up to now)."""
        # a text whose bound is reached goes along with the others of its batch, past the model's last position
        position = (mask.cumsum(1) - 1).clamp(0, self.config.max_positions - 1)[:, -step_input.shape[1] :]
        output = self.body(inputs_embeds=step_input, attention_mask=mask, position_ids=position,
                           past_key_values=cache, use_cache=True)
        return output.last_hidden_state[:, -1]

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


def _take(sequences: Tensor, places: Tensor) -> Tensor:
    """sequences (B, T, D), places (B, S) -> (B, S, D)."""
    return sequences.gather(1, places.unsqueeze(2).expand(-1, -1, sequences.shape[2]))


def _joined(parts: list[Tensor], ends: Tensor, count: int) -> Tensor:
    """parts (B, its longest, D), each clip's own parts ending at `ends` (parts - 1, B) -> (B, count, D): every clip's
    parts follow one another at once, and all padding comes after the last."""
    place = torch.arange(count, device=ends.device).unsqueeze(0)  # (1, count)
    source, start = place.expand(ends.shape[1], count), 0
    for part, end in zip(parts[:-1], ends, strict=True):
        start += part.shape[1]
        source = torch.where(place >= end.unsqueeze(1), place - end.unsqueeze(1) + start, source)
    whole = torch.cat(parts, dim=1)
    return _take(whole, source.clamp(max=whole.shape[1] - 1))
