"""Who may ask, how much at once and how often; and how large a request may be."""

import hmac
import time
from collections import Counter, defaultdict, deque
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import ApiError, error_response
from serving.metrics import Metrics

OPEN_PATHS = ("/health", "/docs", "/openapi.json")
"""Need no key; so do paths below them."""
KEY_LENGTH = 16


class ApiKeys:
    """The keys that open the server; without any it is open to all."""

    def __init__(self, keys: list[str]):
        """ValueError for a key that could be guessed."""
        for key in keys:
            if len(key) < KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError(f"an API key needs {KEY_LENGTH} or more printable ASCII characters without spaces; "
                                 "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'")
        self.keys = [key.encode() for key in keys]

    @staticmethod
    def read(path: Path) -> list[str]:
        """Keys from a file, one a line. ValueError if there is none, or others on this machine may read it."""
        if not path.is_file():
            raise ValueError(f"{path}: no such file with API keys")
        if path.stat().st_mode & 0o077:
            raise ValueError(f"{path}: others may read these keys; chmod 600 {path}")
        keys = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not keys:
            raise ValueError(f"{path}: holds no key; write one a line")
        return keys

    def client(self, headers: Headers, host: str) -> str:
        """Who asks: the number of the key, or the host where there are no keys; ApiError 401 for a wrong key."""
        if not self.keys:
            return host
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # every key is compared, each in a time that does not tell how much of it is right
        fitting = [hmac.compare_digest(given.strip().encode(), key) for key in self.keys]
        if scheme.lower() != "bearer" or not any(fitting):
            raise ApiError(401, "wrong or missing API key; send the header Authorization: Bearer KEY", None,
                           "invalid_api_key", {"WWW-Authenticate": "Bearer"})
        return f"key {fitting.index(True)}"


class Clients:
    """How many requests each client has in work, and has made in the last minute."""

    def __init__(self, at_once: int, per_minute: int | None):
        self.at_once, self.per_minute = at_once, per_minute
        self.speaking: Counter[str] = Counter()
        self.times: defaultdict[str, deque[float]] = defaultdict(deque)

    def enter(self, client: str) -> None:
        """A request begins. ApiError 429 if it is one too many."""
        now = time.monotonic()
        if self.speaking[client] >= self.at_once:
            raise ApiError(429, f"{self.at_once} requests of yours are being answered; wait for one to end", None,
                           "too_many_requests_at_once", {"Retry-After": "1"})
        if self.per_minute:
            for known in [known for known, times in self.times.items() if times[-1] < now - 60]:
                del self.times[known]
            times = self.times[client]
            while times and times[0] < now - 60:
                times.popleft()
            if len(times) >= self.per_minute:
                raise ApiError(429, f"more than {self.per_minute} requests a minute", None, "rate_limit_exceeded",
                               {"Retry-After": str(max(1, round(times[0] + 60 - now)))})
            times.append(now)
        self.speaking[client] += 1

    def leave(self, client: str) -> None:
        """It has ended."""
        self.speaking[client] -= 1
        if not self.speaking[client]:
            del self.speaking[client]


class Gate:
    """ASGI middleware before everything else: keys, the size of the body before it is parsed, and counting."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, max_body: int, metrics: Metrics):
        self.app, self.keys, self.max_body, self.metrics = app, keys, max_body, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body:
                raise self._too_large()
            return message

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "other")
                self.metrics.requests.labels(path, message["status"]).inc()
            await send(message)

        try:
            headers, path = Headers(scope=scope), scope["path"]
            if not any(path == opened or path.startswith(f"{opened}/") for opened in OPEN_PATHS):
                scope["state"]["client"] = self.keys.client(headers, scope["client"][0] if scope["client"] else "")
            length = headers.get("content-length", "0")
            if length.isdigit() and int(length) > self.max_body:
                raise self._too_large()
        except ApiError as error:
            await error_response(error)(scope, receive, counted)
            return
        await self.app(scope, limited, counted)

    def _too_large(self) -> ApiError:
        # what is left of the body is not read, so that nothing else can follow on this connection
        return ApiError(413, f"the request is larger than {self.max_body} bytes", None, "request_too_large",
                        {"Connection": "close"})
