"""Makes the mel of every clip with the aligned-duration model, at the recording's own durations, pitch and energy.

    python3 preprocess_mels.py -c configs/voice.json -m my_model

Run after train_aligned.py; the vocoder is tuned on these mels with train.vocoder.predicted_start. They are frame by
frame those of the recordings, as the model would speak them. Processes that `accelerate launch` starts share the work.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

import cli
from aligned_data import AlignedClips
from checkpoints import require_checkpoint
from config import load_config, parse_config
from data_utils import collate_items
from durations_cache import durations_fingerprint, load_durations
from launcher import is_main, own_part, process_count, process_index
from mels_cache import join_mels, write_mels
from models import build_aligned_tts, load_network
from models.aligned_tts import AlignedTTS
from processes import join, wait
from text import build_frontend

log = logging.getLogger(__name__)

BATCH_SIZE = 16
GIVEN = ("text", "text_lengths", "durations", "pitch", "energy", "speaker", "language")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, help="JSON config")
    parser.add_argument("-m", "--model", required=True, help="name of the model")
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    folder = Path("checkpoints") / arguments.model / "aligned"
    checkpoint = require_checkpoint(folder, f"python3 train_aligned.py -c {arguments.config} -m {arguments.model}")
    stored = parse_config(checkpoint["config"], f"the config in {folder}")
    if stored.audio != config.audio:
        raise ValueError(f"{folder}: was trained with another audio section than {arguments.config} has")
    frontend = build_frontend(stored.text)
    frontend.check_state(checkpoint["text"], str(folder))
    device = join()
    model = load_network(build_aligned_tts(stored, checkpoint), checkpoint, folder).to(device)
    fingerprint = durations_fingerprint(config.audio.model_dump(), frontend.state())

    def encode(ipa: str) -> list[int]:
        return [frontend.bos_id, *frontend.encode(ipa), frontend.eos_id]

    for part in ("training", "validation"):
        rows = load_durations(f"{config.data.durations}/{part}", fingerprint)
        dataset = AlignedClips(rows, encode, checkpoint["speakers"], checkpoint["languages"], config.audio,
                               checkpoint["speaker_pitch"])
        source, target = {"model": arguments.model, "step": checkpoint["step"]}, f"{config.data.mels}/{part}"
        count = min(process_count(), len(dataset))  # processes that have something to do
        parts = [f"{target}.part{k}" for k in range(count)] if count > 1 else [target]
        if process_index() < count:
            mels = predict(model, dataset, config.data.workers, device)
            write_mels(parts[process_index()], mels, config.audio, source)
        wait()
        if is_main() and count > 1:
            join_mels(target, parts, config.audio, source)
        log.info("%s: mels of %d clips, made at step %d", target, len(dataset), checkpoint["step"])


def predict(
    model: AlignedTTS, dataset: AlignedClips, workers: int, device: torch.device
) -> Iterator[tuple[Path, np.ndarray]]:
    """(path, mel (frames, n_mels)) of every clip of this process, longest first."""
    frames = list(dataset.rows["frames"])
    order = own_part(sorted(range(len(frames)), key=lambda i: -frames[i]))
    loader = DataLoader(Subset(dataset, order), BATCH_SIZE, collate_fn=collate_items, num_workers=workers)
    indices = iter(order)
    with tqdm(total=len(order), unit="clip", disable=not is_main()) as bar:
        for batch in loader:
            given = [batch[name].to(device) for name in GIVEN]
            # a clip's noise is the same whichever process makes its mel, beside whichever others
            generators = [torch.Generator(device).manual_seed(next(indices)) for _ in batch["name"]]
            mels = model.spoken_mel(*given, generators=generators)
            for name, mel in zip(batch["name"], mels, strict=True):
                yield Path(name), mel.T.cpu().numpy()
            bar.update(len(mels))


if __name__ == "__main__":
    cli.run(main)
