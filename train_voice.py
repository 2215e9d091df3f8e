"""Trains a voice, from a folder of recordings to a folder that speaks: every script of the chain, one after the other.

    python3 train_voice.py -i recordings/anna -c configs/voice.json -m anna         # make voice does the same
    python3 train_voice.py -i recordings -c configs/voice.json -m both --language anna=en-us bruno=de
    python3 train_voice.py -i recordings/anna -c configs/fine_tune.json -m anna --weights-from voices/default

The folder has a metadata.csv, or is one of such folders, a speaker each. Where the language is not given, it is what a
file language.txt in a speaker's folder says, else the one that its texts are in. train.vocoder.conditioning says which
system is trained: `mel` aligned durations, `codes` and `hidden` a language model. All of it goes under the model's name
in data/, checkpoints/, logs/, outputs/ and voices/; the paths in the config's `data` are replaced by these.

What is done already is not done again: after a stop, or with a greater max_steps in the config, the same command goes
on. The commands that it gives are logged, for whoever wants to give them one by one. With --weights-from, the
stages that a voice has go on from there instead of from nothing: minutes of recordings are then enough.
"""

import argparse
import hashlib
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import cli
from checkpoints import checkpoint_path, saved_steps
from config import Config, load_config, parse_config
from data_utils import read_filelist, write_filelist
from preprocessing.voices import LANGUAGE_FILE, Voice, find_voices, other_language
from text import build_frontend
from text.espeak import espeak_language
from voice_folder import has_stage, read_model, read_stage

log = logging.getLogger(__name__)

PARTS = ("train", "validation")
AGAIN = "give the same command again, it goes on from there"


@dataclass(frozen=True)
class Stage:
    """One script of the chain, and how to know that it need not be run."""

    command: list[str]
    inputs: tuple[Path, ...] = ()
    """Files, and folders of checkpoints, that decide what the script makes."""
    product: Path | None = None
    """What it makes, if it has nothing to do where this is there and the inputs are the same as then."""
    trains: tuple[Path, int] | None = None
    """Folder of the checkpoints and the last step of a training."""

    @property
    def name(self) -> str:
        return shlex.join(self.command)

    @property
    def is_trained(self) -> bool:
        folder, max_steps = self.trains
        return max(saved_steps(folder), default=0) >= max_steps

    def fingerprint(self, config: Config) -> str:
        """Of the command, of what it reads, and of the config but for how the stages are trained."""
        parts = [json.dumps([self.command, config.model_dump(exclude={"train"})])]
        for path in self.inputs:
            if path.is_dir():
                newest = checkpoint_path(path, "G", max(saved_steps(path), default=0))
                state = newest.stat() if newest.is_file() else None
                parts.append(f"{newest} {state and (state.st_size, state.st_mtime_ns)}")
            else:
                parts.append(hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Chain:
    """Runs stages that are not done, and keeps in a file which ones are."""

    def __init__(self, config: Config, journal: Path):
        self.config, self.journal = config, journal
        self.finished: dict[str, str] = json.loads(journal.read_text()) if journal.is_file() else {}

    def is_done(self, stage: Stage) -> bool:
        """Whether there is nothing for it to do; a training that is at its last step has nothing left."""
        if stage.trains and not stage.is_trained:
            return False
        if stage.product is None:
            return stage.trains is not None
        return stage.product.exists() and self.finished.get(stage.name) == stage.fingerprint(self.config)

    def run(self, stage: Stage) -> None:
        """Runs it if it is not done. ValueError if it fails, or if its training was stopped before the last step."""
        if self.is_done(stage):
            log.info("done already: %s", stage.name)
            return
        log.info("python3 %s", stage.name)
        run_script(stage.command)
        if stage.trains and not stage.is_trained:
            raise ValueError(f"{stage.command[0]}: stopped before step {stage.trains[1]}; {AGAIN}")
        self.finished[stage.name] = stage.fingerprint(self.config)
        temporary = self.journal.with_name(self.journal.name + ".tmp")
        temporary.write_text(json.dumps(self.finished, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.journal)


def run_script(command: list[str]) -> None:
    """Runs one of our scripts, with its arguments, in the current folder. ValueError if it fails or is stopped.

    Ctrl-C and SIGTERM are handed to it, so that it can save, and waited for.
    """
    running: list[subprocess.Popen] = []
    stopped: list[str] = []

    def hand_on(number: int, _frame: object) -> None:
        stopped.append(signal.Signals(number).name)
        for process in running:
            os.killpg(process.pid, number)

    previous = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        script = str(Path(__file__).with_name(command[0]))
        # a group of its own, so that a terminal's Ctrl-C comes once
        running.append(subprocess.Popen([sys.executable, script, *command[1:]], process_group=0))
        status = running[0].wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if stopped:
        raise ValueError(f"{command[0]}: stopped by {stopped[0]}; {AGAIN}")
    if status:
        raise ValueError(f"{command[0]}: ended with status {status}, see above; when that is mended, {AGAIN}")


def model_config(source: Path, folder: Path) -> Path:
    """Writes the config of `source` with all of `data` in `folder`, and gives its path."""
    values = json.loads(source.read_text(encoding="utf-8"))
    values["data"] |= {
        "training_filelist": str(folder / "train_ipa.txt"), "validation_filelist": str(folder / "validation_ipa.txt"),
        "validation_text": str(folder / "validation.txt"),
    } | {name: str(folder / name) for name in ("codes", "durations", "mels")}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def checked_voices(source: Path, config: Config, given: list[str]) -> list[Voice]:
    """The voices of a folder with languages that the text frontend knows; ValueError for any other."""
    voices = []
    for voice in find_voices(source, given):
        try:
            language = espeak_language(voice.language) if config.text.frontend == "ipa" else voice.language
        except ValueError as error:
            raise ValueError(f"{voice.folder}: {error}; give espeak-ng's name of its language with --language "
                             f"{voice.name}=NAME (make voice LANGUAGE={voice.name}=NAME), or in a file "
                             f"{voice.folder / LANGUAGE_FILE}") from error
        other = other_language(voice)
        if other:
            log.warning("%s: is to be read as %s, but its texts look like %s", voice.folder, language, other)
        log.info("voice %s: %s, language %s", voice.name, voice.folder, language)
        voices.append(replace(voice, language=language))
    build_frontend(config.text)  # says what it lacks
    return voices


def prepare(chain: Chain, voices: list[Voice], config_path: Path) -> None:
    """Recordings -> clips of every voice in `audio/`, filelists of text and of IPA of all of them together, and
    `evaluation.txt`, the text of the validation clips that have IPA."""
    folder, config = config_path.parent, chain.config
    clips = {part: [] for part in PARTS}
    for voice in voices:
        target = folder / "audio" / voice.name
        chain.run(Stage(["preprocess_audio.py", "-i", str(voice.folder), "-o", str(target), "-c", str(config_path),
                         "--speaker", voice.name, "--language", voice.language]))
        for part in PARTS:
            clips[part] += read_filelist(target / f"{part}.txt")
    text = config.text
    options = ["--frontend", text.frontend, "--english", text.english]
    options += ["--lexicon", text.lexicon] if text.lexicon else []
    for part in PARTS:
        source, target = folder / f"{part}.txt", folder / f"{part}_ipa.txt"
        write_filelist(source, clips[part])
        inputs = (source, Path(text.lexicon)) if text.lexicon else (source,)
        chain.run(Stage(["preprocess_ipa.py", "-i", str(source), "-o", str(target), *options], inputs, target))
    readable = {clip.path for clip in read_filelist(folder / "validation_ipa.txt")}
    write_filelist(folder / "evaluation.txt", [clip for clip in clips["validation"] if clip.path in readable])


def training_stages(config: Config, config_path: Path, model: str, base: Path | None = None) -> list[Stage]:
    """The scripts between the filelists and the speaking system, in order; the stages that the model in the folder
    `base` has start from its weights."""
    checkpoints, own = Path("checkpoints") / model, ["-c", str(config_path), "-m", model]
    filelists = tuple(config_path.parent / f"{part}_ipa.txt" for part in PARTS)

    def training(script: str, stage: str, **others: object) -> Stage:
        steps = getattr(config.train, stage).max_steps
        start = ["--weights-from", str(base)] if base and has_stage(base / stage) else []
        return Stage([f"{script}.py", *own, *start], trains=(checkpoints / stage, steps), **others)

    vocoder = training("train_vocoder", "vocoder")
    if config.train.vocoder.conditioning == "mel":
        durations, aligner = Path(config.data.durations) / "validation", (*filelists, checkpoints / "aligner")
        align = training("align", "aligner", inputs=aligner, product=durations)
        if config.data.alignments != "own":
            align = replace(align, trains=None)
        stages = [align, training("train_aligned", "aligned")]
        if config.train.vocoder.predicted_start is not None:
            inputs = (*aligner, checkpoints / "aligned")
            stages.append(Stage(["preprocess_mels.py", *own], inputs, Path(config.data.mels) / "validation"))
        return [*stages, vocoder]
    codec = [training("train_codec", "codec")] if config.codec.kind == "mel" else []
    return [*codec, Stage(["preprocess_codes.py", *own]), training("train_llm", "llm"), vocoder]


def check_base(config: Config, base: Path) -> None:
    """ValueError if the networks of the exported voice in `base` are not those of the config."""
    for stage in read_model(base).stages:
        stored = read_stage(base, stage)
        theirs = parse_config(stored["config"], f"the config of {base}")
        for section in ("audio", stage):
            if getattr(theirs, section) != getattr(config, section):
                raise ValueError(f"{base}: was trained with another {section} section than this config's; use the "
                                 "config that it was trained with, with fewer steps, or leave out --weights-from")
        if "text" in stored:
            build_frontend(config.text).check_state(stored["text"], str(base))


def final_stages(trained: list[Stage], folder: Path, model: str, voice: Path) -> list[Stage]:
    """Evaluation of what was held out, and the export to the folder `voice`."""
    weights = tuple(stage.trains[0] for stage in trained if stage.trains)
    sentences, report = folder / "evaluation.txt", Path("outputs") / model / "evaluation"
    return [
        Stage(["evaluate.py", "-m", model, "-i", str(sentences), "-o", str(report)], (sentences, *weights),
              report / "report.md"),
        Stage(["export.py", "-m", model, "-o", str(voice)], weights, voice),
    ]


def train_voice(source: Path, config_source: Path, model: str, languages: list[str], base: Path | None = None) -> Path:
    """All of it; gives the exported voice's folder. ValueError for whatever would stop it later, before it begins."""
    import_module("evaluation")  # names packages that it lacks before hours of training
    folder, voice = Path("data") / model, Path("voices") / model
    if base:
        check_base(load_config(config_source), base)
    voices = checked_voices(source, load_config(config_source), languages)
    config_path = model_config(config_source, folder)
    config = load_config(config_path)
    chain = Chain(config, folder / "finished.json")
    trained = training_stages(config, config_path, model, base)
    evaluate, export = final_stages(trained, folder, model, voice)
    if voice.exists() and not (chain.is_done(export) and all(stage.is_trained for stage in trained if stage.trains)):
        raise ValueError(f"{voice}: is there already, of another training; move it away, or take another model name")
    prepare(chain, voices, config_path)
    for stage in (*trained, evaluate, export):
        chain.run(stage)
    return voice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input", type=Path, required=True, metavar="FOLDER",
                        help="with a metadata.csv in it, or with folders that have one each")
    parser.add_argument("-c", "--config", type=Path, default=Path("configs/voice.json"))
    parser.add_argument("-m", "--model", default="voice", help="name of the model, and of the voice in voices/")
    parser.add_argument("--language", nargs="+", default=[], metavar="NAME",
                        help="espeak-ng's name (en-us, de, ...) for all, or FOLDER=NAME for each")
    parser.add_argument("--weights-from", type=Path, metavar="VOICE",
                        help="an exported voice to start from, e.g. voices/default (fine-tuning)")
    options = parser.parse_args()
    voice = train_voice(options.input, options.config, options.model, options.language, options.weights_from)
    log.info('%s speaks: python3 synthesize.py -m %s --text "..." -o hello.wav', voice, voice)


if __name__ == "__main__":
    cli.run(main)
