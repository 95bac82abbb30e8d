"""An HTTP server around a live detector: bars in, verdicts out, and a page that shows them."""

import asyncio
import hmac
import json
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from refold.live.broadcast import Broadcast, Reader
from refold.live.feed import Feed
from refold.live.lines import LineReader
from refold.live.measures import Measures
from refold.live.recent import Recent
from refold.live.verdict import DUPLICATE, MALFORMED, Verdict

BODY_SECONDS = 30.0
"""Seconds that a body may take to come."""

MOST_WAITING = 64
"""Requests with bars that wait for their turn at most."""

STATUS = {MALFORMED: 422, "future": 422, "late": 409, DUPLICATE: 409}
"""Reason of a refused bar -> status of HTTP."""

KINDS = {"application/json", "application/x-ndjson", "text/csv"}
"""Media types of bodies. A page of another site cannot send them without asking first, but for none of them."""

PAGE = Path(__file__).with_name("page.html")

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"


class Limits:
    """Bound what requests may take.

    Args:
        token: that requests must bear; None: none.
        body: bytes of a body.
        rate: requests with bars per second, on average; as many may come at once.
        hosts: names under which the server may be called; None: any.
        seconds: that a body may take to come.
    """

    def __init__(
        self, *, token: str | None, body: int, rate: int, hosts: set[str] | None, seconds: float = BODY_SECONDS
    ) -> None:
        self.token, self.body, self.rate, self.hosts, self.seconds = token, body, rate, hosts, seconds
        self._left, self._at = float(rate), time.monotonic()

    def refuse(self, request: Request) -> Response | None:
        """Return a refusal of a request by its host or token, or None."""
        host = request.headers.get("host", "").rsplit(":", 1)[0].strip("[]").lower()
        if self.hosts is not None and host not in self.hosts:
            return JSONResponse({"detail": f"the host is {host!r}; this server answers on loopback alone"}, 421)
        if self.token is None or request.url.path in ("/", "/health"):  # the page holds no data
            return None
        given = request.headers.get("authorization", "")
        if hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
            return None
        told = {"detail": "the bearer token is missing or wrong"}
        return JSONResponse(told, 401, headers={"WWW-Authenticate": "Bearer"})

    def take(self) -> float:
        """Take one request out of the rate; return the seconds to wait for it, 0 if it may go on."""
        now = time.monotonic()
        self._left, self._at = min(float(self.rate), self._left + (now - self._at) * self.rate), now
        if self._left < 1:
            return (1 - self._left) / self.rate
        self._left -= 1
        return 0.0

    async def read(self, request: Request) -> bytes:
        """Read a body, as far as it may go.

        Raises:
            HTTPException: 413 if it is too large, 408 if it does not come in time, 400 if the
                client goes before its end.
        """
        told = f"the body is larger than {self.body:,} bytes; send fewer bars at a time"
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.body:
            raise HTTPException(413, told)
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > self.body:
                        raise HTTPException(413, told)
                    parts.append(part)
        except TimeoutError:
            close = {"Connection": "close"}
            raise HTTPException(408, f"the body did not come within {self.seconds:g} s", close) from None
        except ClientDisconnect:  # nobody reads the answer
            raise HTTPException(400, "the client went before its body was whole") from None
        return b"".join(parts)


def read_bars(body: bytes, kind: str) -> list[Any]:
    """Read the bars of a body: a JSON object or list, JSON lines, or CSV.

    Args:
        body: of the request.
        kind: its media type.

    Returns:
        Mappings, or a sentence for each bar that is none.

    Raises:
        HTTPException: 415 for another media type, 400 if it is no JSON.
    """
    if kind not in KINDS:
        raise HTTPException(415, f"content-type is {kind or 'not given'}; it must be one of {', '.join(sorted(KINDS))}")
    if kind != "application/json":
        reader = LineReader()
        return [*reader.feed(body), *reader.finish()]
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is no JSON: {str(error).splitlines()[0]}") from None
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list):
        raise HTTPException(400, f"the body is a JSON {type(found).__name__}; it must be a bar or a list of bars")
    return [bar if isinstance(bar, dict) else "a bar must be a JSON object" for bar in found]


def status_of(verdict: Verdict) -> int:
    """Return the status of HTTP of one bar; a bar that came before with the same values is no mistake."""
    if verdict.accepted or (verdict.reason == DUPLICATE and verdict.note is None):
        return 200
    return STATUS[str(verdict.reason)]


class EventStream(StreamingResponse):
    """Send a reader its events. It has its place from now on, so that requests that come at once cannot share one.

    Args:
        broadcast: of the verdicts.
        reader: new.
    """

    def __init__(self, broadcast: Broadcast, reader: Reader) -> None:
        super().__init__(broadcast.events(reader), media_type="text/event-stream")
        self.broadcast, self.reader = broadcast, reader
        broadcast.readers.add(reader)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.broadcast.readers.discard(self.reader)


class Service:
    """Judge the bars of requests one request after another, and tell every reader.

    Args:
        feed: judges, and saves its state.
        name: id of the run.
    """

    def __init__(self, feed: Feed, name: str) -> None:
        self.feed, self.name = feed, name
        self.recent = Recent(feed.live.detector.features)
        self.broadcast = Broadcast()
        self.measures = Measures(feed, self.recent, self.broadcast)
        self.began = time.monotonic()
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def judge(self, bars: list[Any]) -> list[Verdict]:
        """Judge bars in a thread of their own; the verdicts are kept and sent.

        Raises:
            HTTPException: 503 if too many requests wait.
        """
        if self._waiting >= MOST_WAITING:
            raise HTTPException(503, "too many requests wait for verdicts", {"Retry-After": "1"})
        return await asyncio.shield(asyncio.create_task(self._take_turn(bars)))  # also if its client goes

    async def _take_turn(self, bars: list[Any]) -> list[Verdict]:
        began, self._waiting = time.perf_counter(), self._waiting + 1
        try:
            async with self._turn:
                verdicts = await asyncio.to_thread(self._judge, bars)
        finally:
            self._waiting -= 1
        self.measures.add(verdicts, time.perf_counter() - began)
        if self.broadcast.readers:
            for verdict in verdicts:
                text = json.dumps(verdict.to_dict(), ensure_ascii=False)
                self.broadcast.send(verdict.asset, verdict.flagged, text)
        return verdicts

    def _judge(self, bars: list[Any]) -> list[Verdict]:
        verdicts = self.feed.judge(bars)
        self.recent.add(verdicts)
        self.feed.save(due=self.feed.every)
        return verdicts

    def health(self) -> dict[str, Any]:
        """Return what a watchdog asks."""
        drift = self.feed.live.drift
        return {
            "status": "ok",
            "run": self.name,
            "bars": self.feed.bars,
            "assets": len(self.feed.live.assets),
            "drift": drift and drift.pooled,
            "uptime_s": round(time.monotonic() - self.began, 1),
        }


def make_app(service: Service, limits: Limits) -> FastAPI:
    """Make the application.

    Args:
        service: judges.
        limits: of requests.
    """
    from refold import __version__

    # the usual page of /docs loads its scripts from another server; /openapi.json describes all
    app = FastAPI(title="Refold live", version=__version__, docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = limits.refuse(request) or await answer(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.post("/bars", summary="Judge bars")
    async def bars(request: Request) -> JSONResponse:
        """Judge a JSON bar, a list of them, JSON lines or CSV. Each has a status of its own; the accepted ones stay."""
        if wait := limits.take():
            raise HTTPException(
                429, f"more than {limits.rate} requests per second", {"Retry-After": str(math.ceil(wait))}
            )
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in KINDS:  # before the body is read
            read_bars(b"", kind)
        verdicts = await service.judge(read_bars(await limits.read(request), kind))
        said = [{"status": status_of(verdict), **verdict.to_dict()} for verdict in verdicts]
        return JSONResponse(
            {"accepted": sum(verdict.accepted for verdict in verdicts), "verdicts": said},
            max((one["status"] for one in said), default=200),
        )

    @app.get("/verdicts", summary="Verdicts as they come, as server-sent events", response_class=StreamingResponse)
    async def verdicts(asset: str | None = None, flagged: bool = False) -> StreamingResponse:
        """Stream verdicts: of one asset, or on flagged bars alone, where asked. A slow reader loses the oldest."""
        if service.broadcast.full:
            raise HTTPException(503, "there are as many readers as may be", {"Retry-After": "10"})
        return EventStream(service.broadcast, Reader(asset, flagged))

    @app.get("/health", summary="Whether the server lives")
    async def health() -> dict[str, Any]:
        """Return bars, assets, drift and uptime."""
        return service.health()

    @app.get("/metrics", summary="Measures for Prometheus", response_class=Response)
    async def metrics() -> Response:
        """Return bars, flags, refusals, latency, drift, and the age of the newest bar per asset."""
        return Response(service.measures.text(), media_type="text/plain; version=0.0.4")

    @app.get("/assets", summary="The newest bar of each asset")
    async def assets() -> list[dict[str, Any]]:
        """Return time, score, level, flag and drift of the newest bar of each asset."""
        return service.recent.assets()

    @app.get("/last", summary="The last bars of one asset")
    async def last(asset: str) -> dict[str, Any]:
        """Return scores, levels, features and what the model made of them, oldest first."""
        found = service.recent.of(asset)
        if found is None:
            raise HTTPException(404, f"no bar of {asset!r} has come")
        return found

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(), headers={"Content-Security-Policy": POLICY})

    return app
