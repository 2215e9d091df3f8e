"""Text filelist -> IPA filelist: `path|speaker|language|ipa`.

    python3 preprocess_ipa.py -i filelists/train.txt -o filelists/train_ipa.txt -l en-us --preview
    python3 preprocess_ipa.py -i filelists/train.txt -o filelists/train_ipa.txt -l en-us

A language column in the filelist wins over -l. An interrupted run continues where it was when the same command is
given again. Text that is IPA already is checked, not phonemised a second time, with --input-type ipa.
"""

import argparse
import hashlib
import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cache
from pathlib import Path

from tqdm import tqdm

import cli
from config import TextConfig
from data_utils import DEFAULT_LANGUAGE, Clip, read_filelist, write_filelist
from text import Frontend, build_frontend, normalize_ipa
from text.lexicon import INLINE
from text.symbols import STRESS_MARKS, stressed_share

logger = logging.getLogger(__name__)

PREVIEW_LINES = 5
CHUNK_LINES = 500
MOST_JOBS = 1024
CHUNKS_PER_PROCESS = 20  # fewer are done before a further process has started

IPA_LETTERS = set("əɛɪɔʊʃʒŋɡɾʁɹɐɑʌθɕɲ")  # orthographies have some of them too (Azerbaijani, Ewe)

Results = dict[int, dict[str, str]]
"""By index of the clip: {"ipa": ...}, or {"error": ...} if the line has nothing to speak."""


def main() -> None:
    arguments = parse_arguments()
    source, target = Path(arguments.input), Path(arguments.output)
    if source.resolve() == target.resolve():
        raise ValueError(f"{target}: input and output are the same file; give another name to -o")
    config = TextConfig(frontend=arguments.frontend, lexicon=arguments.lexicon, english=arguments.english)
    if arguments.input_type == "ipa" and config != TextConfig():
        raise ValueError("--input-type ipa only checks IPA: leave out --lexicon, --english and --frontend bytes")
    frontend = build_frontend(config)
    clips = with_languages(read_filelist(source), arguments.language, source)
    if arguments.input_type == "text":
        for language in dict.fromkeys(clip.language for clip in clips):
            frontend.check_language(language)
    check_input_type(clips, arguments.input_type, source)

    if arguments.preview:
        clips = clips[:PREVIEW_LINES]
        results = phonemize(config, arguments.input_type, list(enumerate(clips)))
        for i, clip in enumerate(clips):
            spoken = results[i].get("ipa") or f"left out: {results[i]['error']}"
            logger.info("%s\n  %s\n  %s", clip.path, clip.text, spoken)
        return

    fingerprint = hashlib.sha256(json.dumps(
        [hashlib.sha256(source.read_bytes()).hexdigest(), arguments.language, arguments.input_type, frontend.state()]
    ).encode()).hexdigest()
    partial = target.with_name(target.name + ".partial")
    results = run(config, arguments.input_type, clips, arguments.jobs, partial, fingerprint)
    kept = summarize(frontend, clips, results, source)
    write_filelist(target, kept)
    partial.unlink()
    logger.info("%s: %d of %d lines", target, len(kept), len(clips))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input", required=True, help="filelist with text")
    parser.add_argument("-o", "--output", required=True, help="filelist with IPA to write")
    parser.add_argument("-l", "--language", help="espeak-ng's name (en-us, de, cmn, ...) where the filelist has none")
    parser.add_argument("--preview", action="store_true", help=f"show the first {PREVIEW_LINES} lines, write nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per CPU)")
    parser.add_argument("--input-type", choices=["text", "ipa"], default="text")
    parser.add_argument("--lexicon", help="file of word<TAB>ipa lines that override espeak-ng")
    parser.add_argument("--english", choices=["espeak", "misaki"], default="espeak",
                        help="who speaks en-us and en-gb; misaki needs requirements-misaki.txt")
    parser.add_argument("--frontend", choices=["ipa", "bytes"], default="ipa")
    arguments = parser.parse_args()
    if not 1 <= arguments.jobs <= MOST_JOBS:
        raise ValueError(f"--jobs {arguments.jobs}: 1 to {MOST_JOBS}")
    return arguments


def with_languages(clips: list[Clip], language: str | None, source: Path) -> list[Clip]:
    """The clips with a language each; `language` is for those that have none of their own."""
    if language is None and any(clip.language == DEFAULT_LANGUAGE for clip in clips):
        raise ValueError(f"{source}: no language column; give the language with -l, for example -l en-us")
    return [replace(clip, language=language) if clip.language == DEFAULT_LANGUAGE else clip for clip in clips]


def check_input_type(clips: list[Clip], input_type: str, source: Path) -> None:
    """ValueError if text looks like IPA, or IPA like text: its letters give it away."""
    texts = [INLINE.sub("", clip.text) for clip in clips]
    stressed = stressed_share(texts)
    if input_type == "text" and stressed > 0.5:
        raise ValueError(f"{source}: {stressed:.0%} of the lines hold stress or length marks; if they are IPA already, "
                         "give --input-type ipa")
    ipa = sum(bool((STRESS_MARKS | IPA_LETTERS) & set(text)) for text in texts) / len(texts)
    if input_type == "ipa" and ipa < 0.1:
        raise ValueError(f"{source}: only {ipa:.0%} of the lines hold letters that are IPA alone; if they are plain "
                         "text, give --input-type text")


def run(config: TextConfig, input_type: str, clips: list[Clip], jobs: int, partial: Path, fingerprint: str) -> Results:
    """The result of every clip; each finished chunk is appended to `partial`, from which a second run goes on."""
    results = read_partial(partial, fingerprint)
    if results:
        logger.info("%s: %d of %d lines are done already", partial, len(results), len(clips))
    partial.parent.mkdir(parents=True, exist_ok=True)
    todo = [(i, clip) for i, clip in enumerate(clips) if i not in results]
    chunks = [todo[i:i + CHUNK_LINES] for i in range(0, len(todo), CHUNK_LINES)]
    begun = partial.with_name(partial.name + ".tmp")
    begun.write_text(json.dumps({"fingerprint": fingerprint}) + "\n" + json.dumps(results) + "\n", encoding="utf-8")
    begun.replace(partial)
    with partial.open("a", encoding="utf-8") as file, tqdm(total=len(clips), initial=len(results), unit="line") as bar:
        for done in phonemize_chunks(config, input_type, chunks, jobs):
            results |= done
            file.write(json.dumps(done) + "\n")
            file.flush()
            bar.update(len(done))
    return results


def read_partial(partial: Path, fingerprint: str) -> Results:
    """What an interrupted run with the same input, options and versions has finished."""
    if not partial.exists():
        return {}
    header, *lines = partial.read_text(encoding="utf-8", errors="replace").split("\n")
    if header != json.dumps({"fingerprint": fingerprint}):
        logger.info("%s: from another input or other options; starting anew", partial)
        return {}
    # what follows the last newline was cut off while it was written
    return {int(i): result for line in lines[:-1] for i, result in json.loads(line).items()}


def phonemize_chunks(config: TextConfig, input_type: str, chunks: list, jobs: int) -> Iterator[Results]:
    """The results of each chunk, in the order in which they are done."""
    jobs = min(jobs, len(chunks) // CHUNKS_PER_PROCESS)
    if jobs < 2:
        for chunk in chunks:
            yield phonemize(config, input_type, chunk)
        return
    context = multiprocessing.get_context("spawn")  # espeak-ng's library holds state that a fork would share
    ignore = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(jobs, context, signal.signal, ignore) as pool:
        futures = [pool.submit(phonemize, config, input_type, chunk) for chunk in chunks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def phonemize(config: TextConfig, input_type: str, chunk: list[tuple[int, Clip]]) -> Results:
    """The results of a chunk of numbered clips."""
    frontend = _frontend(config)
    results: Results = {}
    for i, clip in chunk:
        try:
            is_ipa = input_type == "ipa"
            ipa = normalize_ipa(clip.text) if is_ipa else frontend.phonemize(clip.text, clip.language)
            frontend.encode(ipa)
            results[i] = {"ipa": ipa}
        except ValueError as error:
            results[i] = {"error": str(error)}
    return results


@cache
def _frontend(config: TextConfig) -> Frontend:
    return build_frontend(config)


def summarize(frontend: Frontend, clips: list[Clip], results: Results, source: Path) -> list[Clip]:
    """Logs what was left out and which symbols are unknown; the clips that remain, with IPA. ValueError if none."""
    numbers = [n for n, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1) if line.strip()]
    kept = [replace(clip, text=results[i]["ipa"]) for i, clip in enumerate(clips) if "ipa" in results[i]]
    for i, number in enumerate(numbers):
        if "error" in results[i]:
            logger.warning("%s line %d left out: %s", source, number, results[i]["error"])
    if not kept:
        raise ValueError(f"{source}: no line is left; the first: {results[0]['error']}")
    for clip in kept:
        frontend.encode(clip.text)
    for symbol, count in frontend.unknown.most_common():
        logger.warning("unknown symbol %r (U+%04X): %d times", symbol, ord(symbol), count)
    left_out = len(clips) - len(kept)
    logger.info("%d lines left out, %d unknown symbols", left_out, frontend.unknown.total())
    return kept


if __name__ == "__main__":
    cli.run(main)
