"""Trains the language model, phonemes -> codes (config sections "llm" and "train.llm").

    python3 train_llm.py -c configs/ipa_tts.json -m my_model

Reads the codes that preprocess_codes.py cached, or streams their Parquet shards (data.codes_storage, data.code_shards).
With llm.pretrained, the transformer weights of that folder are the start.
"""

import logging
import math
from functools import partial

import torch
from torch import Tensor

import cli
from codes_cache import load_codes
from config import Config, LLMStage, load_config
from data_utils import CodeSequences, check_known, collate_items, most_common_languages
from durations_cache import durations_fingerprint, load_durations
from lm_corpora import open_corpus
from lm_data import SymbolsOfFrames, fitting
from losses import token_cross_entropy, weighted_sum
from models import build_token_lm, codec_data, load_codec
from models.codec import MelCodec
from models.layers.sampling import Sampling
from processes import share
from shard_stream import Layout
from text import build_frontend
from training import Run

log = logging.getLogger(__name__)

VALIDATION_BATCHES = 8
VOICE_SECONDS = 1.0, 3.0  # of the other clips that voices are taken from


def lm_losses(
    lm: torch.nn.Module, batch: dict, with_text: bool = False, with_alignment: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    """Cross-entropies `llm` over all codebooks and, if wanted, `text` and `alignment`; the share of codes predicted
    right."""
    logits, targets, *others = lm(
        batch["text"], batch["text_lengths"], batch["codes"], batch["codes_lengths"], batch["speaker"],
        batch["language"], voice=batch.get("voice"), voice_lengths=batch.get("voice_lengths"), row=batch.get("row"),
        offset=batch.get("offset"), with_text=with_text, alignment=batch["alignment"] if with_alignment else None,
    )
    right = (logits.argmax(-1) == targets).sum() / share((targets != -100).sum())
    names = ["text"] * with_text + ["alignment"] * with_alignment
    losses = {name: token_cross_entropy(*pair) for name, *pair in zip(names, others[::2], others[1::2], strict=True)}
    return {"llm": token_cross_entropy(logits, targets)} | losses, right


def loss_weights_at(stage: LLMStage, step: int) -> dict[str, float]:
    """The weights of the losses at a step, without `text` where it has none (any more) and `alignment` (as yet)."""
    weights = dict(stage.loss_weights)
    if step < stage.alignment_start:
        weights.pop("alignment", None)
    if stage.text_loss_steps and "text" in weights:
        weights["text"] *= max(0.0, 1 - step / stage.text_loss_steps)
    return {name: weight for name, weight in weights.items() if weight or name == "llm"}


def main() -> None:
    arguments = cli.stage_arguments(__doc__).parse_args()
    train(load_config(arguments.config), arguments)


def train(config: Config, arguments) -> None:
    stage = config.train.llm
    frontend = build_frontend(config.text)
    codec = load_codec(config, arguments.model)
    corpus = open_corpus(config.data, codec.fingerprint, frontend)
    held_out = load_codes(f"{config.data.codes}/validation", codec.fingerprint)
    speakers, languages = (sorted(set(names)) for names in zip(*corpus.voices, strict=True))
    check_known(held_out["speaker"], speakers, "speaker", config.data.validation_filelist)
    check_known(held_out["language"], languages, "language", config.data.validation_filelist)
    if arguments.test_mode:
        corpus, held_out = corpus.head(8), held_out.select(range(min(2, len(held_out))))
    metadata = {
        "config": config.model_dump(), "speakers": speakers, "languages": languages, "text": frontend.state(),
        "speaker_languages": most_common_languages(corpus.voices), "codec": codec_data(codec),
    }
    torch.manual_seed(stage.seed)
    lm = build_token_lm(config, metadata)
    if config.llm.pretrained:
        lm.load_pretrained(config.llm.pretrained)
    positions = config.llm.max_positions
    voice_frames = tuple(math.ceil(seconds * codec.frame_rate) for seconds in VOICE_SECONDS)
    overhead = lm.voice_positions_for(1) - 1
    # room for the voices that are to be expected
    reserve = round(stage.voice_probability * (sum(voice_frames) / 2 + overhead))
    layout = Layout(stage.batch_size, positions, stage.packing, lm.positions_for(0, 0), reserve,
                    stage.voice_probability, voice_frames, overhead)
    metadata["frames_per_symbol"] = corpus.fit(frontend, layout)  # a bound for synthesis
    held_out = held_out.select(fitting(held_out, frontend.encode, lm.positions_for, positions, "validation")[0])
    speech, scored_by = None, "loss"
    if stage.evaluate:
        from evaluation.held_out import spoken_by_model  # here, as it needs packages of its own

        speech, to_wave, scored_by = spoken_by_model(held_out["path"], config, "llm", arguments.model)
    run = Run(stage_name="llm", stage=stage, arguments=arguments, generator=lm, metadata=metadata, scored_by=scored_by,
              blocks=lm.blocks if stage.shard else None)
    if frontend.unknown:
        log.warning("unknown symbols in the training text: %s", dict(frontend.unknown.most_common(10)))

    def training_step(run: Run, batch: dict) -> dict[str, Tensor]:
        weights = loss_weights_at(stage, run.step)
        losses, accuracy = lm_losses(run.generator, run.to_device(batch), "text" in weights, "alignment" in weights)
        run.update("generator", weighted_sum(losses, weights))
        return losses | {"accuracy": accuracy}

    with_text, with_alignment = (bool(stage.loss_weights.get(name)) for name in ("text", "alignment"))
    alignments = {}
    if with_alignment:
        fingerprint = durations_fingerprint(config.audio.model_dump(), frontend.state())
        frames_per_code = config.audio.frame_rate / codec.frame_rate
        alignments = {part: SymbolsOfFrames(load_durations(f"{config.data.durations}/{part}", fingerprint),
                                            frames_per_code) for part in ("training", "validation")}

    def speak(run: Run, item: dict) -> Tensor:
        """The wave (samples,) of a held-out clip's text, at most twice as long as its recording."""
        ids, speaker, language = (torch.as_tensor(item[name], device=run.device)
                                  for name in ("text", "speaker", "language"))
        generator = torch.Generator(run.device).manual_seed(0)
        codes = run.validation_network().generate(
            [ids], speaker[None], language[None], [2 * item["codes"].shape[1]], Sampling(), generator
        )[0].codes
        if not codes.shape[1]:
            return torch.zeros(0)
        frames = torch.tensor([codes.shape[1]], device=run.device)
        of_codec = codec.speakers.index(speakers[item["speaker"]]) if isinstance(codec, MelCodec) else 0
        mel, _ = codec.to(run.device).decode_mel(codes[None], frames, torch.tensor([of_codec], device=run.device))
        return to_wave(mel)

    def validate(run: Run) -> dict[str, float]:
        lm, totals = run.validation_network(), []
        items = CodeSequences(held_out, frontend.encode, speakers, languages, alignments.get("validation"))
        for first in range(0, min(len(items), VALIDATION_BATCHES * stage.batch_size), stage.batch_size):
            batch = [items[i] for i in range(first, min(first + stage.batch_size, len(items)))]
            losses, accuracy = lm_losses(lm, run.to_device(collate_items(batch)), with_text, with_alignment)
            totals.append(losses | {"accuracy": accuracy})
        values = {name: float(torch.stack([batch[name] for batch in totals]).mean()) for name in totals[0]}
        values["score"] = values["llm"]
        return values | (speech.measure([speak(run, items[i]) for i in speech.indices]) if speech else {})

    sequences = partial(CodeSequences, encode=frontend.encode, speakers=speakers, languages=languages,
                        alignment=alignments.get("training"))
    batches, batches_per_epoch, longest_batch = corpus.batches(
        layout, sequences, stage.seed, run.accelerator.process_index, run.accelerator.num_processes,
        stage.curriculum_steps * stage.gradient_accumulation, config.data,
    )

    def targets_in(batch: dict) -> float:
        """Codes that are predicted, and one end for each clip."""
        return float((batch["codes_lengths"] * codec.n_codebooks + 1).sum())

    run.fit(batches, batches_per_epoch, longest_batch, training_step, validate, targets_in)


if __name__ == "__main__":
    cli.run(main)
