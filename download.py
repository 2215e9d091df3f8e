"""Fetches pretrained weights and the LJSpeech corpus; every download can be interrupted and goes on when run again.

    python3 download.py gpt2        # -> pretrained_llm/gpt2, 550 MB
    python3 download.py encodec     # -> encodec_pretrained, 93 MB
    python3 download.py ljspeech    # -> data/LJSpeech-1.1, 2.7 GB and 3.8 GB unpacked

With --offline (or HF_HUB_OFFLINE=1) the network is never touched: what is missing is said, and where to put it.
"""

import argparse
import hashlib
import logging
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import httpx
import requests
from huggingface_hub import constants, snapshot_download
from tqdm import tqdm

import cli

log = logging.getLogger(__name__)

TIMEOUT = (10, 60)
"""Seconds to connect, and to wait for the next bytes."""


@dataclass(frozen=True)
class Weights:
    """Files of a repository on the Hugging Face hub."""

    repository: str
    folder: Path
    files: tuple[str, ...]
    next_step: str


@dataclass(frozen=True)
class Corpus:
    """A tar archive with one folder in it."""

    url: str
    sha256: str
    folder: Path
    next_step: str


SOURCES = {
    "gpt2": Weights("openai-community/gpt2", Path("pretrained_llm/gpt2"), ("config.json", "model.safetensors"),
                    'set "llm": {"pretrained": "{folder}"} in the config, then run train_llm.py'),
    "encodec": Weights("facebook/encodec_24khz", Path("encodec_pretrained"), ("config.json", "model.safetensors"),
                       'set "codec": {"kind": "encodec", "path": "{folder}"} in the config, then run '
                       "preprocess_codes.py"),
    "ljspeech": Corpus("https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
                       "be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5", Path("data/LJSpeech-1.1"),
                       "python3 preprocess_audio.py -i {folder} -o data/ljspeech --language en-us"),
}


def fetch_weights(weights: Weights, folder: Path, offline: bool, endpoint: str | None = None) -> None:
    """Puts the files of `weights` into `folder`; ValueError names what is missing where it cannot."""
    missing = [name for name in weights.files if not (folder / name).is_file()]
    if not missing:
        log.info("%s holds %s already", folder, " and ".join(weights.files))
        return
    page = f"{endpoint or constants.ENDPOINT}/{weights.repository}"
    by_hand = f"put {' and '.join(missing)} from {page} into {folder}"
    if offline:
        raise ValueError(f"offline, and {folder} lacks {' and '.join(missing)}: {by_hand}")
    try:
        snapshot_download(weights.repository, local_dir=folder, allow_patterns=list(weights.files), endpoint=endpoint)
    except (httpx.HTTPError, OSError) as error:
        raise ValueError(f"{page} cannot be fetched ({_first_line(error)}): run again, or {by_hand}") from error
    missing = [name for name in weights.files if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{page} has no {' and no '.join(missing)}")


def fetch_corpus(corpus: Corpus, folder: Path, offline: bool, url: str | None = None) -> None:
    """Downloads, checks and unpacks `corpus` to `folder`; the archive stays beside it."""
    url = url or corpus.url
    if folder.is_dir():
        log.info("%s is there already", folder)
        return
    archive = folder.parent / corpus.url.rsplit("/", 1)[-1]
    if not archive.is_file():
        if offline:
            raise ValueError(f"offline, and neither {folder} nor {archive} is there: put {url} there as {archive}")
        download(url, archive)
    check_sha256(archive, corpus.sha256)
    unpack(archive, folder)
    log.info("%s is no longer needed", archive)


def download(url: str, path: Path) -> None:
    """GETs `url` to `path`, going on where an earlier try stopped (`path`.part, HTTP Range)."""
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    done = part.stat().st_size if part.is_file() else 0
    try:
        with requests.get(url, headers={"Range": f"bytes={done}-"} if done else {}, stream=True,
                          timeout=TIMEOUT) as response:
            # 416: there is nothing after what we have
            if response.status_code != requests.codes.requested_range_not_satisfiable:
                response.raise_for_status()
                _receive(response, part, done if response.status_code == requests.codes.partial_content else 0)
    except requests.HTTPError as error:
        raise ValueError(f"{error}; give another address with --url") from error
    except requests.RequestException as error:
        got = part.stat().st_size if part.is_file() else 0
        if got > done:
            raise ValueError(f"{url}: the connection broke; run again to go on after {got:,} bytes") from error
        if isinstance(error, requests.ConnectionError):
            raise ValueError(f"{url}: the host cannot be reached; check the network, or give another address with "
                             "--url") from error
        raise ValueError(f"{url}: {_first_line(error)}; run again, or give another address with --url") from error
    except OSError as error:
        raise ValueError(f"{part}: cannot be written ({error.strerror}); free disk space and run again") from error
    part.replace(path)


def _receive(response: requests.Response, part: Path, done: int) -> None:
    length = response.headers.get("Content-Length")
    with part.open("ab" if done else "wb") as file, tqdm(
        total=done + int(length) if length else None, initial=done, unit="B", unit_scale=True, desc=part.stem,
    ) as bar:
        for chunk in response.iter_content(1 << 16):
            file.write(chunk)
            bar.update(len(chunk))


def check_sha256(path: Path, expected: str) -> None:
    """ValueError, and the file is removed, if its checksum is not the expected one."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        path.unlink()
        raise ValueError(f"{path}: SHA-256 is {found}, expected {expected}; the file was removed, download it again")


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the one folder in a tar archive to `folder`, all or nothing; unsafe members are refused."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking_") as temporary:
        try:
            with tarfile.open(archive) as tar:
                for member in tqdm(tar, unit="file", desc=f"unpacking {archive.name}"):
                    tar.extract(member, temporary, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{archive}: cannot be unpacked ({error})") from error
        unpacked = list(Path(temporary).iterdir())
        if len(unpacked) != 1 or not unpacked[0].is_dir():
            raise ValueError(f"{archive}: holds {len(unpacked)} files or folders, expected one folder")
        unpacked[0].rename(folder)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=SOURCES)
    parser.add_argument("-o", "--output", type=Path, help="another folder than the one above")
    parser.add_argument("--url", help="another address: of the archive, or of a mirror of the hub")
    parser.add_argument("--offline", action="store_true", help="only look whether all is there; unpack if need be")
    values = parser.parse_args()
    source = SOURCES[values.source]
    folder = values.output or source.folder
    fetch = fetch_weights if isinstance(source, Weights) else fetch_corpus
    fetch(source, folder, values.offline or constants.HF_HUB_OFFLINE, values.url)
    log.info("next: %s", source.next_step.replace("{folder}", str(folder)))


if __name__ == "__main__":
    cli.run(main)
