"""The server as its clients meet it: the voice that comes along and the tiny language model, OpenAI's own client,
schemathesis, and people who send nonsense or leave."""

import asyncio
import base64
import io
import json
import threading
import time

import httpx
import numpy as np
import openai
import pytest
import schemathesis
import soundfile
import uvicorn
from conftest import run_script
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import positive_data_acceptance
from slow_voice import SlowVoice

import serve
from models.aligned_tts import Prosody
from serving.app import Settings, create_app
from serving.limits import ApiKeys
from synthesis.synthesizer import Synthesizer
from synthesize import DEFAULT_VOICE, load_synthesizer

KEY = "a-key-that-nobody-guesses"
SPEECH = "/v1/audio/speech"
HELLO = {"model": "default", "input": "Hello world. How are you?", "response_format": "wav"}


class Server:
    """A real one, on a free port, in a thread."""

    def __init__(self, app):
        self.uvicorn = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=30))
        self.thread = threading.Thread(target=self.uvicorn.run)
        self.thread.start()
        wait_for(lambda: self.uvicorn.started)
        port = self.uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        wait_for(lambda: httpx.get(f"{self.url}/health", timeout=60).status_code == 200)

    def close(self) -> None:
        """Ends it as SIGTERM does."""
        self.uvicorn.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()


def wait_for(condition) -> None:
    """Until it is true; a language model's step may have to be compiled before."""
    until = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def tiny(_built_chain):
    return Synthesizer("tiny", _built_chain / "checkpoints")


@pytest.fixture(scope="module")
def server(tiny):
    started = Server(create_app({"default": load_synthesizer(), "tiny": tiny}, Settings()))
    yield started
    started.close()


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


@pytest.fixture
def slow():
    """A server of a voice that waits to be opened, with little room."""
    voice = SlowVoice()
    started = Server(create_app({"slow": voice}, Settings(max_queue=2, per_client=2)))
    yield started, voice
    voice.open.set()
    started.close()


def in_16_bit(samples) -> np.ndarray:
    return np.round(samples.clamp(-1, 1).numpy() * 32767).astype(np.int16)


def decoded(content: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(content), dtype="int16")[0]


def test_speech_is_what_synthesize_says(client, tiny):
    response = client.post(SPEECH, json=HELLO | {"voice": "kathleen", "speed": 1.25})
    assert (response.status_code, response.headers["content-type"]) == (200, "audio/wav")
    assert response.headers["transfer-encoding"] == "chunked"
    expected = load_synthesizer().speak(HELLO["input"], "en-us", "kathleen", prosody=Prosody(rate=1.25)).samples
    assert np.abs(decoded(response.content).astype(int) - in_16_bit(expected)).max() <= 1
    asked = {"model": "tiny", "input": "One. Two.", "seed": 5, "response_format": "wav", "voice": "bruno"}
    for retries in (0, 1):
        expected = tiny.speak("One. Two.", "de", "bruno", seed=5, retries=retries).samples
        heard = decoded(client.post(SPEECH, json=asked | {"retries": retries}).content)
        assert np.abs(heard.astype(int) - in_16_bit(expected)).max() <= 1
    assert client.post(SPEECH, json=asked | {"seed": 6}).content != client.post(SPEECH, json=asked).content


def test_openais_client(server, tiny):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as api:
        assert [model.id for model in api.models.list()] == ["default", "tiny"]
        assert api.models.retrieve("tiny").object == "model"
        for name in ("mp3", "opus", "flac", "wav"):
            speech = api.audio.speech.create(model="default", voice="kerstin", input="Guten Tag.", response_format=name)
            heard, rate = soundfile.read(io.BytesIO(speech.content))
            assert 0.5 < len(heard) / rate < 3
        with api.audio.speech.with_streaming_response.create(
                model="default", voice={"id": "kathleen"}, input="Hello. " * 5, response_format="pcm") as streamed:
            assert len(list(streamed.iter_bytes())) > 1
        with pytest.raises(openai.NotFoundError) as missing:
            api.audio.speech.create(model="tts-1", voice="alloy", input="Hi.")
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError, match="voice 'alloy' is not one of default's: flemishguy, kathleen"):
            api.audio.speech.create(model="default", voice="alloy", input="Hi.")

    async def many() -> list[bytes]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as api:
            return [speech.content for speech in await asyncio.gather(*(api.audio.speech.create(
                model="tiny", voice="ella", input=f"Number {i}.", response_format="wav", extra_body={"seed": i})
                for i in range(8)))]

    for i, content in enumerate(asyncio.run(many())):
        expected = in_16_bit(tiny.speak(f"Number {i}.", "en-us", "ella", seed=i, retries=0).samples)
        assert np.abs(decoded(content).astype(int) - expected).max() <= 1


def test_events(client):
    response = client.post(SPEECH, json=HELLO | {"stream_format": "sse"})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    audio = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert audio == client.post(SPEECH, json=HELLO).content
    assert events[-1]["type"] == "speech.audio.done"
    assert events[-1]["usage"]["input_tokens"] == len(HELLO["input"])


def test_a_recording_as_the_voice(client, tiny, chain):
    path = next(chain.glob("data/wavs/bruno*.wav"))
    asked = {"model": "tiny", "input": "One.", "response_format": "wav", "seed": 1, "language": "de",
             "reference_audio": base64.b64encode(path.read_bytes()).decode(), "reference_text": "Guten Tag."}
    expected = tiny.speak("One.", "de", reference=path, reference_text="Guten Tag.", seed=1, retries=0).samples
    heard = decoded(client.post(SPEECH, json=asked).content)
    assert np.abs(heard.astype(int) - in_16_bit(expected)).max() <= 1
    refused = client.post(SPEECH, json=asked | {"model": "default"})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "default does not follow reference_audio; leave it out"
    for content, message in ((b"no audio", "reference_audio: not readable as audio"),
                             (path.read_bytes()[:3000], "reference_audio: truncated"),
                             (bytes(10 * 2**20 + 99), "reference_audio: larger than")):
        response = client.post(SPEECH, json=asked | {"reference_audio": base64.b64encode(content).decode()})
        assert response.status_code == (413 if "larger" in message else 400)
        assert response.json()["error"]["message"].startswith(message)
        assert response.json()["error"]["param"] == "reference_audio"


BAD = {
    "empty text": ({"input": ""}, 400, "input"), "nothing to say": ({"input": " ?! "}, 400, "input"),
    "no text": ({"input": None}, 400, "input"), "a number": ({"input": 5}, 400, "input"),
    "a megabyte": ({"input": "a " * 500_000}, 413, "input"), "long": ({"input": "a" * 4097}, 413, "input"),
    "voice": ({"voice": "alloy"}, 400, "voice"), "voice type": ({"voice": 1}, 400, "voice.str"),
    "model": ({"model": "x"}, 404, "model"), "format": ({"response_format": "aac"}, 400, "response_format"),
    "language": ({"language": "fr"}, 400, "language"), "speed": ({"speed": 5}, 400, "speed"),
    "speed type": ({"speed": "fast"}, 400, "speed"), "unknown": ({"nonsense": 1}, 400, "nonsense"),
    "instructions": ({"instructions": "Speak gladly."}, 400, "instructions"),
    "temperature": ({"temperature": 1.0}, 400, "temperature"), "surrogate": ({"input": "a\ud800"}, 400, "input"),
    "passage": ({"input": '<lang xml:lang="fr">Oui.</lang>'}, 400, "input"),
    "base64": ({"model": "tiny", "reference_audio": "!"}, 400, "reference_audio"),
    "rate of tokens": ({"model": "tiny", "speed": 2.0}, 400, "speed"), "retries": ({"retries": 1}, 400, "retries"),
    "words without a recording": ({"reference_text": "Hi."}, 400, "input"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_told_so(client, name):
    changes, status, param = BAD[name]
    content = json.dumps(HELLO | changes).encode()
    response = client.post(SPEECH, content=content, headers={"content-type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert "/" not in error["message"].replace("</lang>", "").replace("e.g. ", "")


def test_the_server_goes_on_whatever_it_was_sent(client):
    for content in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'"text"'):
        response = client.post(SPEECH, content=content, headers={"content-type": "application/json"})
        assert response.status_code == 400
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    endless = (b" " * 2**20 for _ in range(20))  # without a content-length
    assert client.post(SPEECH, content=endless).status_code == 413
    assert [client.get("/x").status_code, client.get(SPEECH).status_code] == [404, 405]
    assert client.post(SPEECH, json=HELLO).status_code == 200


def test_what_is_counted(client):
    client.post(SPEECH, json=HELLO)
    client.post(SPEECH, json=HELLO | {"voice": "alloy"})
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    for status in (200, 400):
        assert float(lines[f'tts_requests_total{{path="{SPEECH}",status="{status}"}}']) >= 1
    for name in ("audio_seconds_total", "busy_seconds_total", "first_byte_seconds_count", "times_real_time_count"):
        assert float(lines[f'tts_{name}{{model="default"}}']) > 0
    assert (float(lines["tts_queue_length"]), float(lines["tts_ready"])) == (0, 1)
    voices = client.get("/v1/audio/voices", params={"model": "default"}).json()["data"]
    assert [(voice["id"], voice["language"]) for voice in voices] == [
        ("flemishguy", "nl"), ("kathleen", "en-us"), ("kerstin", "de"), ("nathalie", "nl")]
    assert client.get("/v1/audio/voices", params={"model": "x"}).status_code == 404
    assert client.get("/health").json() == {"live": True, "ready": True, "models": ["default", "tiny"]}


def test_a_client_that_leaves_is_spoken_no_further(slow):
    server, voice = slow
    text = {"model": "slow", "input": "word " * 100, "response_format": "wav"}
    with httpx.Client(base_url=server.url, timeout=60) as client:
        def metric(name: str) -> float:
            return next((float(line.rsplit(" ", 1)[1]) for line in client.get("/metrics").text.splitlines()
                         if line.startswith(f"{name} ")), 0)

        # before the first sound
        with pytest.raises(httpx.ReadTimeout):
            client.post(SPEECH, json=text, timeout=0.2)
        wait_for(lambda: metric('tts_cancelled_total{model="slow"}') == 1)
        # and behind it
        voice.seconds = 0.05
        voice.open.set()
        with client.stream("POST", SPEECH, json=text) as response:
            next(response.iter_raw())
        wait_for(lambda: metric('tts_cancelled_total{model="slow"}') == 2)
        wait_for(lambda: metric("tts_queue_length") == 0)
        assert metric('tts_audio_seconds_total{model="slow"}') < 60  # of 200


def test_too_much_at_once(slow):
    server, voice = slow
    asked = {"model": "slow", "input": "a", "response_format": "pcm"}

    async def many():
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            first = [asyncio.create_task(client.post(SPEECH, json=asked)) for _ in range(2)]
            while "tts_queue_length 2.0" not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.02)
            third = await client.post(SPEECH, json=asked)
            voice.open.set()
            return [*(await asyncio.gather(*first)), third, await client.post(SPEECH, json=asked)]

    responses = asyncio.run(many())
    assert [response.status_code for response in responses] == [200, 200, 429, 200]
    assert responses[2].headers["retry-after"] == "1"
    assert responses[2].json()["error"]["type"] == "rate_limit_error"


def test_a_full_queue_a_busy_client_and_keys():
    voice = SlowVoice()
    keys = (KEY, f"{KEY}-2")
    app = create_app({"slow": voice}, Settings(max_queue=1, per_minute=2, keys=keys))
    asked = {"model": "slow", "input": "a", "response_format": "pcm"}
    with TestClient(app) as client:
        for header in (None, "", KEY, f"Basic {KEY}", "Bearer wrong", f"Bearer {KEY}x", "Bearer ü"):
            headers = {} if header is None else {"Authorization": header.encode()}
            refused = client.post(SPEECH, json=asked, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            assert client.get("/metrics", headers=headers).status_code == 401
        wait_for(lambda: client.get("/health").status_code == 200)
        assert client.get("/openapi.json").status_code == client.get("/docs").status_code == 200
        allowed = [{"Authorization": f"Bearer {key}"} for key in keys]
        first = threading.Thread(target=client.post, args=(SPEECH,), kwargs={"json": asked, "headers": allowed[0]})
        first.start()
        wait_for(lambda: len(app.state.scheduler) == 1)
        full = client.post(SPEECH, json=asked, headers=allowed[0])
        assert (full.status_code, full.json()["error"]["code"]) == (503, "queue_full")
        assert int(full.headers["retry-after"]) >= 1
        often = client.post(SPEECH, json=asked, headers=allowed[0])
        assert (often.status_code, often.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(often.headers["retry-after"]) <= 60
        voice.open.set()
        first.join(60)
        assert client.post(SPEECH, json=asked, headers=allowed[1]).status_code == 200


def test_a_failure_is_the_servers_and_is_not_told(slow, caplog):
    server, voice = slow
    voice.open.set()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        asked = {"model": "slow", "response_format": "wav"}
        response = client.post(SPEECH, json=asked | {"input": "crash"})
        assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
        assert "crashed" not in response.text
        with pytest.raises(httpx.TransportError):
            client.post(SPEECH, json=asked | {"input": "fine crash"})
        events = client.post(SPEECH, json=asked | {"input": "fine crash", "stream_format": "sse"}).text
        assert json.loads(events.strip().split("data: ")[-1])["type"] == "error"
        assert client.post(SPEECH, json=asked | {"input": "fine"}).status_code == 200
    assert "crashed" in caplog.text


def test_what_is_in_work_ends_before_the_server(slow):
    server, voice = slow
    voice.seconds = 0.1
    voice.open.set()
    with httpx.Client(base_url=server.url, timeout=60) as client, client.stream(
            "POST", SPEECH, json={"model": "slow", "input": "word " * 20, "response_format": "pcm"}) as response:
        chunks = response.iter_raw()
        heard = len(next(chunks))
        server.uvicorn.should_exit = True
        wait_for(lambda: not server.uvicorn.servers[0].sockets)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health", timeout=60)
        assert heard < 20 * 2 * 24000
        heard += sum(map(len, chunks))
    assert heard == 20 * 2 * 24000
    server.close()


def test_its_openapi_page_holds():
    """Valid and invalid requests for every route, at the level of the page; docs/serving.md has a longer run."""
    app = create_app({"slow": opened()}, Settings(max_text=50))
    with TestClient(app):
        schema = schemathesis.openapi.from_asgi("/openapi.json", app)
        tried = set()
        for operation in schema.get_all_operations():
            @given(operation.ok().as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
                   | operation.ok().as_strategy())
            @settings(max_examples=8, deadline=None, derandomize=True, database=None,
                      suppress_health_check=list(HealthCheck))
            def conforms(case):
                tried.add((case.method, case.path))
                case.call_and_validate(excluded_checks=[positive_data_acceptance])

            conforms()
    assert {path for _, path in tried} == {
        SPEECH, "/v1/models", "/v1/models/{model}", "/v1/audio/voices", "/health", "/health/live", "/metrics"}


def opened() -> SlowVoice:
    voice = SlowVoice()
    voice.open.set()
    return voice


def test_the_command_line(monkeypatch, tmp_path, capsys, caplog):
    served = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: served.append((app, options)))
    run_script("serve", "-m", DEFAULT_VOICE, "-m", f"tts-1={DEFAULT_VOICE}", "--max-text", 9)
    (app, options), = served
    assert (options["host"], options["port"]) == ("127.0.0.1", 8000)
    with TestClient(app) as client:
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["default", "tts-1"]
        assert client.post(SPEECH, json=HELLO).status_code == 413
    monkeypatch.setenv(serve.KEY_VARIABLE, KEY)
    run_script("serve", "--host", "0.0.0.0")
    with TestClient(served[-1][0]) as client:
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert "open to everyone" not in caplog.text
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n")
    file.chmod(0o644)
    monkeypatch.delenv(serve.KEY_VARIABLE)
    for arguments, message in (
            (["-m", DEFAULT_VOICE, "-m", DEFAULT_VOICE], "another model is served as 'default'"),
            (["-m", "none"], "checkpoints/none"), (["--api-key-file", file], f"chmod 600 {file}"),
            (["--api-key-file", tmp_path / "gone"], "no such file with API keys")):
        with pytest.raises(SystemExit):
            run_script("serve", *arguments)
        assert message in capsys.readouterr().err
    file.chmod(0o600)
    assert ApiKeys.read(file) == [KEY]
    with pytest.raises(ValueError, match="an API key needs 16 or more"):
        ApiKeys(["short"])
