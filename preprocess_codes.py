"""Encodes the clips of both filelists with the config's codec and caches the codes in data.codes.

    python3 preprocess_codes.py -c configs/ipa_tts.json
    python3 preprocess_codes.py -c configs/fsq_tts.json -m my_model     # its own, trained codec

Run after preprocess_ipa.py: the last column of the filelists is IPA. An interrupted run goes on where it stopped;
with the same codec, filelists and recordings nothing is done. With data.codes_storage "parquet" the codes are shards
that train_llm.py streams; codes that are there already are only stored anew. Processes that `accelerate launch` starts
share the work.
"""

import argparse
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import datasets
import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import cli
from code_shards import text_fingerprint
from codes_cache import MAX_CODEBOOK_SIZE, CodesWriter, content_hash, load_codes, read_info
from config import DataConfig, load_config
from data_utils import Clip, read_filelist
from launcher import is_main, own_part
from mel_processing import load_audio
from models import load_codec
from processes import from_main, join, wait
from text import Frontend, build_frontend

log = logging.getLogger(__name__)

SHARD_SIZE = 128  # clips that are loaded, sorted by length and saved together
STORAGE_KEYS = {"storage", "shard_clips", "text"}
"""What says how codes are stored, not which they are."""
SILENCE = 1e-4  # peak, -80 dB: nothing but dither


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, help="JSON config")
    parser.add_argument("-m", "--model", help="name of the model whose trained codec is used (codec.kind mel)")
    parser.add_argument("--batch-size", type=int, default=8, help="clips encoded at once (default 8)")
    parser.add_argument("--workers", type=int, help="processes that load audio (default: data.workers)")
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    workers = config.data.workers if arguments.workers is None else arguments.workers
    if arguments.batch_size < 1 or workers < 0:
        raise ValueError("--batch-size must be at least 1, --workers at least 0")
    if config.codec.kind == "mel" and not arguments.model:
        raise ValueError(f"{arguments.config}: its codec is trained: say with -m MODEL whose it is")
    datasets.disable_progress_bars()  # ours counts clips, theirs would count files

    filelists = {"training": config.data.training_filelist, "validation": config.data.validation_filelist}
    clips = {name: read_filelist(path) for name, path in filelists.items()}
    codec = load_codec(config, arguments.model)
    if codec.codebook_size > MAX_CODEBOOK_SIZE:
        raise ValueError(f"{arguments.config}: codebooks of {codec.codebook_size} entries; the cache takes up to "
                         f"{MAX_CODEBOOK_SIZE}: use fewer levels and more codebooks")
    codec = codec.eval().to(join())
    folder = Path(config.data.codes)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0) if is_main() else nullcontext():
            for name, filelist in filelists.items():
                cache_codes(codec, filelist, clips[name], folder / name, config.data, arguments.batch_size, workers,
                            build_frontend(config.text))
    except Timeout as error:
        raise ValueError(f"{folder}: another preprocess_codes.py is writing there; wait for it") from error


def cache_codes(
    codec: nn.Module, filelist: str, clips: list[Clip], folder: Path, data: DataConfig, batch_size: int, workers: int,
    frontend: Frontend,
) -> None:
    """Brings the codes of one filelist in `folder` up to date. ValueError if none of its clips can be used."""
    source = {
        "fingerprint": codec.fingerprint, "filelist": str(filelist),
        "content": content_hash(filelist, (clip.path for clip in clips)),
        "min_seconds": data.min_seconds, "max_seconds": data.max_seconds, "n_codebooks": codec.n_codebooks,
        "codebook_size": codec.codebook_size, "frame_rate": codec.frame_rate, "sample_rate": codec.sample_rate,
        "storage": data.codes_storage,
    }
    if data.codes_storage == "parquet":
        source |= {"shard_clips": data.shard_clips, "text": text_fingerprint(frontend.state())}
    info, changed = read_info(folder), None
    if info is not None:
        info.setdefault("storage", "arrow")
        changed = [key for key, value in source.items() if info.get(key) != value]
        if not changed:
            log.info("%s: up to date (%d clips, %d left out)", folder, info["clips"], len(info["skipped"]))
            return
        log.info("%s: made anew: %s", folder,
                 ", ".join(f"{key} was {info.get(key)}, is {source[key]}" for key in changed))
    try:
        writer = CodesWriter(folder, source, frontend.encode) if is_main() else None
        wait()  # the main process clears away what is of another source
        if changed and STORAGE_KEYS.issuperset(changed):
            stored = writer.put(load_codes(folder, codec.fingerprint), info["skipped"]) if writer else None
            n_clips, skipped = from_main(stored)
        else:
            writer = writer or CodesWriter(folder, source, frontend.encode)
            n_clips, skipped = _write(writer, codec, clips, data, batch_size, workers)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written ({error}); free disk space or mend the rights, then run this "
                         "again: it goes on where it stopped") from error
    log.info("%s: %d clips stored, %d left out", folder, n_clips, len(skipped))


def _write(
    writer: CodesWriter, codec: nn.Module, clips: list[Clip], data: DataConfig, batch_size: int, workers: int,
) -> tuple[int, list[str]]:
    shards = [clips[start : start + SHARD_SIZE] for start in range(0, len(clips), SHARD_SIZE)]
    missing = from_main([index for index in range(len(shards)) if not writer.has_shard(index)])
    n_done = len(clips) - sum(len(shards[index]) for index in missing)
    missing = own_part(missing)
    waiting = Shards([shards[index] for index in missing], codec.sample_rate, data)
    loader = DataLoader(
        waiting, batch_size=None, collate_fn=_unchanged, num_workers=workers, prefetch_factor=1 if workers else None,
    )
    total = n_done + sum(len(shards[index]) for index in missing)
    with tqdm(total=total, initial=n_done, unit="clip", desc=writer.folder.name, disable=not is_main()) as progress:
        for index, (usable, waves, skipped) in zip(missing, loader, strict=True):
            for reason in skipped:
                log.warning("left out: %s", reason)
            progress.update(len(skipped))
            rows = {}
            for position, codes in encode_by_length(codec, waves, batch_size):
                clip = shards[index][usable[position]]
                rows[position] = {
                    "path": str(clip.path), "speaker": clip.speaker, "language": clip.language, "ipa": clip.text,
                    "codes": codes.to(torch.int16).cpu().numpy(), "frames": codes.shape[1],
                    "seconds": len(waves[position]) / codec.sample_rate,
                }
                progress.update()
            writer.write_shard(index, [rows[position] for position in sorted(rows)], skipped)
    wait()
    return from_main(writer.finish(len(shards)) if is_main() else None)


def encode_by_length(codec: nn.Module, waves: list[np.ndarray], batch_size: int) -> Iterator[tuple[int, Tensor]]:
    """(position in `waves`, codes (n_codebooks, frames)) of each wave (samples,), longest first, in batches."""
    device = next(codec.parameters()).device
    order = sorted(range(len(waves)), key=lambda position: -len(waves[position]))
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        lengths = torch.tensor([len(waves[position]) for position in positions], device=device)
        wave = pad_sequence([torch.from_numpy(waves[position]) for position in positions], batch_first=True).to(device)
        try:
            codes, code_lengths = codec.encode(wave, lengths)
        except torch.OutOfMemoryError as error:
            raise ValueError(f"out of memory with {len(positions)} clips at once: use a smaller --batch-size, then run "
                             "this again: it goes on where it stopped") from error
        for position, clip_codes, length in zip(positions, codes, code_lengths.tolist(), strict=True):
            yield position, clip_codes[:, :length]


class Shards(Dataset):
    """Loads whole shards: indices of the usable clips, their waves (samples,), and the reasons against the others."""

    def __init__(self, shards: list[list[Clip]], sample_rate: int, data: DataConfig):
        self.shards, self.sample_rate, self.data = shards, sample_rate, data

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> tuple[list[int], list[np.ndarray], list[str]]:
        usable, waves, skipped = [], [], []
        for number, clip in enumerate(self.shards[index]):
            try:
                waves.append(load_clip(clip.path, self.sample_rate, self.data).numpy())
                usable.append(number)
            except ValueError as error:
                skipped.append(str(error))
        return usable, waves, skipped


def _unchanged(shard: tuple) -> tuple:
    # as arrays through a pipe: tensors would take one file handle each, and shared memory that containers lack
    return shard


def load_clip(path: Path, sample_rate: int, data: DataConfig) -> Tensor:
    """A whole recording (samples,) that is fit for training; ValueError names the file and what is wrong with it."""
    wave = load_audio(path, sample_rate, seconds=data.max_seconds + 1)
    seconds = len(wave) / sample_rate
    if seconds > data.max_seconds:
        raise ValueError(f"{path}: longer than data.max_seconds, {data.max_seconds} s")
    if seconds < data.min_seconds:
        raise ValueError(f"{path}: {seconds:.2f} s, shorter than data.min_seconds, {data.min_seconds} s")
    if wave.abs().max() < SILENCE:
        raise ValueError(f"{path}: silent")
    return wave


if __name__ == "__main__":
    cli.run(main)
