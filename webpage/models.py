"""The models that the page offers: found, loaded when they are asked for, and tried once so that the first sound of a
listener does not wait for what is only done once."""

import logging
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path

from checkpoints import BEST_FILE, checkpoint_path, read_checkpoint, saved_steps, write_checkpoint
from models.aligned_tts import Prosody
from models.layers.sampling import Sampling
from synthesis import is_trained
from synthesis.synthesizer import RETRIES, Synthesizer, model_folder
from voice_folder import is_exported
from webpage.asked import BEST, Abilities, Control, Snapshot

log = logging.getLogger(__name__)

VOICES = Path(__file__).parents[1] / "voices"
KEPT = 3  # models in memory; the one that was not asked for the longest goes first
SPEAKING_STAGES = ("aligned", "llm", "vocoder")
"""Of which an earlier checkpoint can speak; the codes of another codec would mean something else."""

SAMPLING, PROSODY = Sampling(), Prosody()
CONTROLS = {
    "temperature": Control(0, 1.5, 0.05, SAMPLING.temperature),
    "top_k": Control(0, 200, 1, SAMPLING.top_k),
    "top_p": Control(0.05, 1, 0.05, SAMPLING.top_p),
    "retries": Control(0, 5, 1, RETRIES),
    "rate": Control(0.5, 2, 0.05, PROSODY.rate),
    "pitch": Control(-12, 12, 0.5, PROSODY.pitch),
    "energy": Control(-12, 12, 1, PROSODY.energy),
}
"""The sliders; those of prosody go less far than what is allowed, to where it still sounds like a voice."""


class Models:
    """Models by their names: folders under `checkpoints`, or paths of exported voices."""

    def __init__(self, given: list[str], checkpoints: Path):
        """`given`: the only ones to be offered, the first of them first; if none, every one that is found in voices/
        and under `checkpoints`. ValueError if there is none."""
        self.checkpoints, self._given = checkpoints, given
        if not self.names():
            raise ValueError(f"{checkpoints}: no trained model there, nor a voice in voices/; train one, or name one's "
                             "folder with -m")
        self._loaded: OrderedDict[tuple, Synthesizer] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """What there is now."""
        if self._given:
            return self._given
        voices = sorted(shown_path(path) for path in VOICES.glob("*") if is_exported(path))
        trained = sorted(path.name for path in self.checkpoints.glob("*") if path.is_dir() and is_trained(path))
        return voices + trained

    def snapshots(self) -> dict[str, Snapshot]:
        """Every model and, by their labels, the earlier checkpoints of its stages that are still kept."""
        found = []
        for name in self.names():
            found.append(Snapshot(name))
            for stage in SPEAKING_STAGES:
                folder = model_folder(name, self.checkpoints) / stage
                earlier = [str(step) for step in saved_steps(folder)[1:]]
                best = [BEST] if (folder / BEST_FILE).is_file() else []
                found += [Snapshot(name, stage, step) for step in best + earlier]
        return {snapshot.label: snapshot for snapshot in found}

    def load(self, snapshot: Snapshot) -> Synthesizer:
        """The model, loaded anew if its files have changed. ValueError as of `Synthesizer`, and for one that is not
        offered."""
        if snapshot.label not in self.snapshots():
            raise ValueError(f"{snapshot.label}: no such model here; choose one of the list")
        folder = model_folder(snapshot.model, self.checkpoints)
        with self._lock:
            key = snapshot, *((path, path.stat().st_mtime_ns) for path in sorted(folder.glob("*/G_*.pth")))
            if key not in self._loaded:
                self._loaded[key] = self._read(snapshot, folder)
            self._loaded.move_to_end(key)
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
            return self._loaded[key]

    def abilities(self, name: str) -> Abilities:
        """What a model can be asked for."""
        system = self.load(Snapshot(name)).system
        controls = {name: control for name, control in CONTROLS.items() if name in system.controls}
        return Abilities(system.languages, {name: system.speaker_languages[name] for name in system.speakers}, controls,
                         "reference" in system.controls, "seed" in system.controls)

    def _read(self, snapshot: Snapshot, folder: Path) -> Synthesizer:
        if not snapshot.stage:
            synthesizer = Synthesizer(snapshot.model, self.checkpoints)
        else:
            with tempfile.TemporaryDirectory() as temporary:
                link_snapshot(snapshot, folder, Path(temporary) / folder.name)
                synthesizer = Synthesizer(folder.name, temporary)
        for _ in synthesizer.stream("a", synthesizer.languages[0]):
            pass
        return synthesizer


def shown_path(path: Path) -> str:
    """Relative to the current folder, where it is in it."""
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else str(path)


def link_snapshot(snapshot: Snapshot, folder: Path, target: Path) -> None:
    """Makes `target` a model whose files are those of `folder`, but for one stage, which has a single checkpoint."""
    target.mkdir()
    for stage in folder.iterdir():
        if stage.name != snapshot.stage:
            (target / stage.name).symlink_to(stage.resolve())
    source, linked = folder / snapshot.stage, target / snapshot.stage
    linked.mkdir()
    if snapshot.step == BEST:
        best = read_checkpoint(source / BEST_FILE)
        # it was saved without its discriminators, which whoever speaks does not need
        write_checkpoint(best | {"has_discriminator": False}, checkpoint_path(linked, "G", best["step"]))
        return
    for path in source.glob(f"?_step{snapshot.step}.pth"):
        (linked / path.name).symlink_to(path.resolve())
