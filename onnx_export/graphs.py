"""The networks of a speech system as functions of tensors, each with real input to trace and to check it with."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decoding.functional import Functional
from decoding.weights import read_weights
from models.aligned_tts import AlignedTTS, Prosody
from models.layers.mel_decoders import AutoregressiveDecoder, FlowDecoder
from models.layers.sampling import Sampling
from models.token_lm import TokenLM
from models.vocoder import Vocoder
from synthesis.aligned_system import AlignedSystem, AlignedVoice
from synthesis.frames_to_wave import FramesToWave
from synthesis.token_system import TokenSystem, TokenVoice

TEXTS = ["1, 2, 3, 4, 5, 6, 7.", "8 9"]
"""Every language reads them in its own way."""
TRACED_FRAMES = 16


@dataclass
class Graph:
    """One ONNX file."""

    name: str
    module: nn.Module
    traced: dict[str, Tensor]
    """Input to trace it with. No length that may vary is 0 or 1, which would be taken for a constant."""
    real: list[dict[str, Tensor]]
    """Inputs of speech."""
    outputs: list[str]
    lengths: dict[str, dict[int, str]]
    """Which axes of which inputs may have any length, and how it is called."""


class AlignedEncoder(nn.Module):
    """Text, speaker, language and prosody -> features of every symbol and durations."""

    def __init__(self, model: AlignedTTS):
        super().__init__()
        self.model = model

    def forward(
        self, text: Tensor, speaker: Tensor, language: Tensor, rate: Tensor, pitch: Tensor, energy: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """text (1, S), speaker and language (1,), scalars as in `Prosody` -> symbols (1, S, C), durations (1, S)."""
        mask = torch.ones_like(text, dtype=torch.bool)
        return self.model.predict(text, mask, speaker, language, rate, pitch, energy)


class AlignedDecoder(nn.Module):
    """Symbols and durations -> mel."""

    def __init__(self, model: AlignedTTS):
        super().__init__()
        self.model = model

    def forward(self, symbols: Tensor, durations: Tensor, noise: Tensor) -> Tensor:
        """symbols (1, S, C), durations (1, S), noise (1, P, out_size) -> mel (1, n_mels, P * frames_per_position)."""
        return self.model.decode(symbols, durations, noise)


class LanguageModel(nn.Module):
    """Positions of one text behind those that the cache holds: its beginning in one go, then each step.

    A position is the sum of K embeddings of one table, which has symbols, languages, speakers, the codes of every
    codebook, and nothing; `offsets` says where each begins.
    """

    def __init__(self, lm: TokenLM):
        super().__init__()
        self.functional = Functional(read_weights(lm.body, [head.weight for head in lm.heads]), plain=True)
        self.n_codebooks = lm.n_codebooks
        tables = {"symbols": lm.body.get_input_embeddings(), "languages": lm.language_embedding,
                  "speakers": lm.speaker_embedding,
                  **{f"codes_{k}": table for k, table in enumerate(lm.code_embeddings)}}
        self.offsets, place = {}, 0
        for name, table in tables.items():
            self.offsets[name], place = place, place + len(table.weight)
        self.offsets["nothing"] = place
        self.table = torch.cat([*(table.weight.detach() for table in tables.values()),
                                torch.zeros(1, lm.config.hidden_size)])
        heads, size = lm.config.n_kv_heads or lm.config.n_heads, lm.config.head_size
        self.cache_shape = [2, lm.config.n_layers, heads, size or lm.config.hidden_size // lm.config.n_heads]

    def forward(self, ids: Tensor, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ids (T, K), past (P, *cache_shape) -> logits of the last position (K, codebook_size + 2), its state (D,),
        what the cache is to have more (T, *cache_shape)."""
        hidden, logits, added = self.functional.extend(self.table[ids].sum(1), past)
        return logits.view(self.n_codebooks, -1), hidden, added


class FramesToMel(nn.Module):
    """Codes or hidden states -> mel."""

    def __init__(self, to_wave: FramesToWave):
        super().__init__()
        self.decoder = to_wave.decoder

    def forward(self, frames: Tensor, speaker: Tensor, places: Tensor) -> Tensor:
        """frames (1, K or state_size, T), speaker (1,), places (F,), which say by their number alone how many mel
        frames there are to be -> mel (1, n_mels, F)."""
        features = self.decoder.features(frames)
        lengths = torch.full((1,), frames.shape[2], device=frames.device)
        return self.decoder.mel_from_features(features, lengths, speaker, torch.zeros(1), places.shape[0])


class MelToWave(nn.Module):
    """The vocoder, its noise included."""

    def __init__(self, vocoder: Vocoder):
        super().__init__()
        self.vocoder = vocoder

    def forward(self, mel: Tensor) -> Tensor:
        """mel (1, n_mels, F) -> wave (1, samples)."""
        return self.vocoder(mel).wave


@torch.inference_mode()
def graphs_of(system: AlignedSystem | TokenSystem) -> list[Graph]:
    """What speaks in a system, in the order in which it does. ValueError for what cannot be exported."""
    language = system.languages[0]
    voice = system.voice(None, language)
    pieces = [system.pieces(system.frontend.phonemize(text, language), voice)[0] for text in TEXTS]
    ids = [torch.tensor(system.frontend.encode(piece)) for piece in pieces]
    make = _aligned_graphs if isinstance(system, AlignedSystem) else _token_graphs
    return make(system, ids, voice)


def _aligned_graphs(system: AlignedSystem, ids: list[Tensor], voice: AlignedVoice) -> list[Graph]:
    model = system.model
    if isinstance(model.decoder, AutoregressiveDecoder):
        raise ValueError("an autoregressive aligned.decoder makes its mel in a loop, which is in no ONNX file: export "
                         "without --onnx, or train a parallel or flow one")
    encoder, decoder = AlignedEncoder(model), AlignedDecoder(model)
    prosody = {name: torch.tensor(value) for name, value in vars(Prosody()).items()}
    ends = torch.tensor([system.frontend.bos_id]), torch.tensor([system.frontend.eos_id])
    given = [{"text": torch.cat([ends[0], one, ends[1]])[None], "speaker": torch.tensor([voice.speaker]),
              "language": torch.tensor([0]), **prosody} for one in ids]
    given.append(given[0] | {"rate": torch.tensor(1.3), "pitch": torch.tensor(2.0), "energy": torch.tensor(-3.0)})
    said = []
    for one in given:
        symbols, durations = encoder(**one)
        n_positions = -(-int(durations.sum()) // model.config.frames_per_position)
        noise = torch.zeros(1, n_positions, model.config.frames_per_position * model.n_mels)
        if isinstance(model.decoder, FlowDecoder):
            noise.normal_(generator=torch.Generator().manual_seed(0))
        said.append({"symbols": symbols, "durations": durations, "noise": noise})
    mels = [decoder(**one)[:, :, : int(one["durations"].sum())] for one in said]
    return [
        Graph("encoder", encoder, given[0], given, ["symbols", "durations"], {"text": {1: "n_symbols"}}),
        Graph("decoder", decoder, said[0], said, ["mel"],
              {"symbols": {1: "n_symbols"}, "durations": {1: "n_symbols"}, "noise": {1: "n_positions"}}),
        vocoder_graph(system.vocoder, mels),
    ]


def _token_graphs(system: TokenSystem, ids: list[Tensor], voice: TokenVoice) -> list[Graph]:
    lm, to_wave = LanguageModel(system.lm), FramesToMel(system.to_wave)
    bounds = [system.bound(len(one)) for one in ids]
    speaker, language = torch.full((len(ids),), voice.speaker), torch.zeros(len(ids), dtype=torch.long)
    made = system.fast_lm.generate(ids, speaker, language, bounds, Sampling(), torch.Generator().manual_seed(0),
                                   with_states=system.hidden)
    frames = [(one.states if system.hidden else one.codes)[None] for one in made]
    heard = [_heard(system.to_wave, one, voice) for one in frames]
    mels = [to_wave(**one) for one in heard]

    text = torch.full((len(ids[0]), lm.n_codebooks), lm.offsets["nothing"])
    text[:, 0] = ids[0]
    codes = made[0].codes.T + torch.tensor([lm.offsets[f"codes_{k}"] for k in range(lm.n_codebooks)])
    return [
        language_model_graph(lm, text, codes, [1, len(codes)]),
        Graph("decoder", to_wave, _heard(system.to_wave, frames[0].repeat(1, 1, TRACED_FRAMES), voice), heard, ["mel"],
              {"frames": {2: "n_frames"}, "places": {0: "n_mel_frames"}}),
        vocoder_graph(system.to_wave.vocoder, mels),
    ]


def language_model_graph(lm: LanguageModel, first: Tensor, then: Tensor, counts: list[int]) -> Graph:
    """The language model on positions (P, K) with an empty cache, and on the first so many of others behind them."""
    empty = torch.zeros(0, *lm.cache_shape)
    past = lm(first, empty)[2]
    return Graph("lm", lm, {"ids": torch.cat([first, first, then]), "past": torch.cat([past] * 2)},
                 [{"ids": first, "past": empty}, *({"ids": then[:count], "past": past} for count in counts)],
                 ["logits", "hidden", "added"], {"ids": {0: "n_new"}, "past": {0: "n_past"}})


def _heard(to_wave: FramesToWave, frames: Tensor, voice: TokenVoice) -> dict[str, Tensor]:
    return {"frames": frames, "speaker": torch.tensor([voice.decoder_speaker]),
            "places": torch.arange(to_wave.mel_frames(frames.shape[2]))}


def vocoder_graph(vocoder: Vocoder, mels: list[Tensor]) -> Graph:
    """The vocoder on mels (1, n_mels, F) of different lengths."""
    return Graph("vocoder", MelToWave(vocoder), {"mel": mels[0].repeat(1, 1, TRACED_FRAMES)},
                 [{"mel": mel} for mel in mels], ["wave"], {"mel": {2: "n_mel_frames"}})
