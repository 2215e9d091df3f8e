"""download.py against local servers: resuming, checksums, unpacking, a hub, and no network when offline."""

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import download as module
from download import SOURCES, Corpus, Weights, check_sha256, download, fetch_corpus, fetch_weights, unpack

CONTENT = bytes(range(256)) * 5000


class Server(ThreadingHTTPServer):
    """Serves `files` by path, with Range; `break_after` closes the next answer after so many bytes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.ranges, self.break_after, self.supports_range = {}, [], None, True
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        content = self.server.files.get(self.path.split("?")[0])
        if content is None:
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted and self.server.supports_range else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if with_body:
            end, self.server.break_after = self.server.break_after, None
            self.wfile.write(content[start: end and start + end])


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        pytest.fail("the network was touched")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def corpus_on(server, content, sha256=None):
    server.files["/voice-1.0.tar.bz2"] = content
    return Corpus(f"{server.url}/voice-1.0.tar.bz2", sha256 or hashlib.sha256(content).hexdigest(), Path(), "")


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    server.files["/file"] = CONTENT
    server.break_after = 2**18
    path = tmp_path / "file"
    with pytest.raises(ValueError, match="the connection broke; run again to go on after 262,144 bytes"):
        download(f"{server.url}/file", path)
    assert not path.exists()
    download(f"{server.url}/file", path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=262144-"]
    assert os.listdir(tmp_path) == ["file"]


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    server.files["/file"] = CONTENT
    server.supports_range = False
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    download(f"{server.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_complete_part_is_only_renamed(server, tmp_path):
    server.files["/file"] = CONTENT
    (tmp_path / "file.part").write_bytes(CONTENT)
    download(f"{server.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_wrong_address_and_an_unreachable_host_are_named(server, tmp_path):
    with pytest.raises(ValueError, match=r"404 .*/nothing; give another address with --url"):
        download(f"{server.url}/nothing", tmp_path / "file")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match="the host cannot be reached"):
            download(f"http://127.0.0.1:{unused.getsockname()[1]}/file", tmp_path / "file")
    assert not os.listdir(tmp_path)


def test_a_wrong_checksum_is_named_and_the_file_removed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    check_sha256(path, hashlib.sha256(CONTENT).hexdigest())
    with pytest.raises(ValueError, match=f"file: SHA-256 is {hashlib.sha256(CONTENT).hexdigest()}, expected 00"):
        check_sha256(path, "00")
    assert not path.exists()


def test_a_corpus_is_fetched_checked_and_unpacked(server, tmp_path):
    corpus = corpus_on(server, tar_of({"voice-1.0/metadata.csv": b"a|text\n", "voice-1.0/wavs/a.wav": b"RIFF"}))
    fetch_corpus(corpus, tmp_path / "voice", offline=False)
    assert (tmp_path / "voice/metadata.csv").read_bytes() == b"a|text\n"
    assert (tmp_path / "voice/wavs/a.wav").read_bytes() == b"RIFF"
    assert sorted(os.listdir(tmp_path)) == ["voice", "voice-1.0.tar.bz2"]

    server.files.clear()
    fetch_corpus(corpus, tmp_path / "voice", offline=False)
    wrong = corpus_on(server, b"something else", sha256="00")
    with pytest.raises(ValueError, match="SHA-256"):
        fetch_corpus(wrong, tmp_path / "elsewhere/voice", offline=False)
    assert not os.listdir(tmp_path / "elsewhere")


@pytest.mark.parametrize("members", [
    {"voice-1.0/a": b"", "../escape": b"out"}, {"/absolute": b"", "other": b""}, {"one": b""},
])
def test_unsafe_and_unexpected_archives_leave_nothing(members, tmp_path):
    archive = tmp_path / "in/archive.tar.bz2"
    archive.parent.mkdir()
    archive.write_bytes(tar_of(members))
    with pytest.raises(ValueError, match=r"archive.tar.bz2: (cannot be unpacked|holds)"):
        unpack(archive, tmp_path / "in/voice")
    assert os.listdir(tmp_path / "in") == ["archive.tar.bz2"]
    assert os.listdir(tmp_path) == ["in"]


def test_a_cut_archive_leaves_nothing(tmp_path):
    archive = tmp_path / "archive.tar.bz2"
    archive.write_bytes(tar_of({"voice/a": os.urandom(100_000)})[:50_000])
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "voice")
    assert os.listdir(tmp_path) == ["archive.tar.bz2"]


def test_weights_come_from_a_hub(server, tmp_path):
    files = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"not wanted"}
    api = "/api/models/someone/model"
    listing = [{"type": "file", "path": name, "size": len(content), "oid": "b" * 40} for name, content in files.items()]
    info = {"id": "someone/model", "sha": "a" * 40, "siblings": [{"rfilename": name} for name in files]}
    server.files[f"{api}/revision/main"] = server.files[api] = json.dumps(info).encode()
    server.files[f"{api}/tree/{'a' * 40}"] = json.dumps(listing).encode()
    server.files |= {f"/someone/model/resolve/{'a' * 40}/{name}": content for name, content in files.items()}
    weights = Weights("someone/model", tmp_path, ("config.json", "model.safetensors"), "")
    fetch_weights(weights, tmp_path / "model", offline=False, endpoint=server.url)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").glob("*.*") if path.is_file()} == {
        "config.json": b"{}", "model.safetensors": b"weights",
    }
    with pytest.raises(ValueError, match="nobody/model cannot be fetched"):
        fetch_weights(Weights("nobody/model", tmp_path, ("config.json",), ""), tmp_path / "other", offline=False,
                      endpoint=server.url)


def test_offline_says_what_is_missing_and_where_to_put_it(no_network, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name in ("gpt2", "encodec"):
        with pytest.raises(ValueError, match=rf"lacks model.safetensors: put .* from https://.* into {tmp_path}"):
            fetch_weights(SOURCES[name], tmp_path, offline=True)
    with pytest.raises(ValueError, match=r"put https://.*LJSpeech-1.1.tar.bz2 there as "):
        fetch_corpus(SOURCES["ljspeech"], tmp_path / "LJSpeech-1.1", offline=True)
    (tmp_path / "model.safetensors").write_text("")
    fetch_weights(SOURCES["gpt2"], tmp_path, offline=True)


def test_offline_unpacks_what_was_put_there(no_network, tmp_path):
    content = tar_of({"voice/metadata.csv": b"a|text\n"})
    (tmp_path / "voice.tar.bz2").write_bytes(content)
    corpus = Corpus("https://host.invalid/voice.tar.bz2", hashlib.sha256(content).hexdigest(), Path(), "")
    fetch_corpus(corpus, tmp_path / "voice", offline=True)
    assert (tmp_path / "voice/metadata.csv").is_file()


def test_the_command_line_says_how_to_go_on(no_network, tmp_path, monkeypatch, caplog):
    for name in SOURCES["gpt2"].files:
        (tmp_path / name).write_text("")
    monkeypatch.setattr(sys, "argv", ["download.py", "gpt2", "--offline", "-o", str(tmp_path)])
    with caplog.at_level("INFO"):
        module.main()
    assert f'"pretrained": "{tmp_path}"' in caplog.text


def test_the_hubs_own_offline_switch_counts(tmp_path):
    run = subprocess.run([sys.executable, "download.py", "encodec", "-o", tmp_path], capture_output=True, text=True,
                         env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert run.returncode == 2
    assert run.stderr.startswith(f"error: offline, and {tmp_path} lacks config.json and model.safetensors")
