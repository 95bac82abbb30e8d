"""`refold serve`: bars in, verdicts out, a status per bar, limits that hold, and a page that needs nothing else."""

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from conftest import clean_environment, compose_run

from refold.cli import serve
from refold.config.build import build_data
from refold.errors import ConfigError
from refold.library.run import load_run
from refold.live.broadcast import MOST_READERS, QUEUE, Broadcast, Reader
from refold.live.feed import Feed
from refold.live.recent import SHOWN, Recent
from refold.live.server import PAGE, Limits, Service, make_app
from refold.live.verdict import Verdict
from tests.live.browser import Browser

TOKEN = "a-token-for-tests-0123"


@pytest.fixture(scope="module")
def last_run(train_once) -> Path:
    return train_once("alignment=last")


@pytest.fixture(scope="module")
def bars() -> list[dict]:
    table = build_data(compose_run([])).source.load().sort("timestamp", "asset")
    table = table.filter(table["timestamp"] >= table["timestamp"].unique().sort()[-60])
    return json.loads(table.write_json())


class Client:
    """Ask an application without a network."""

    def __init__(self, app) -> None:
        self.app = app

    def request(self, method: str, path: str, **more) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as http:
                return await http.request(method, path, **more)

        return asyncio.run(ask())

    def get(self, path: str, **more) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more) -> httpx.Response:
        return self.request("POST", path, **more)


def client(last_run: Path, *, token: str | None = None, body: int = 10**6, rate: int = 1000) -> Client:
    service = Service(Feed(load_run(last_run).live(), None, 1), "run")
    app = make_app(service, Limits(token=token, body=body, rate=rate, hosts={"testserver"}))
    app.state.service = service
    return Client(app)


async def in_two_parts():
    yield b" " * 900
    yield b" " * 900


def test_bars_get_verdicts_and_all_that_is_asked_later_knows_them(last_run, bars):
    http = client(last_run)
    assert http.get("/health").json() | {"uptime_s": 0} == {
        "status": "ok", "run": "run", "bars": 0, "assets": 0, "drift": "stable", "uptime_s": 0,
    }  # fmt: skip
    answer = http.post("/bars", json=bars)
    assert answer.status_code == 200
    assert answer.json()["accepted"] == len(bars) == len(answer.json()["verdicts"])
    assert sum(one["score"] is not None for one in answer.json()["verdicts"]) > 100
    names = sorted({bar["asset"] for bar in bars})
    assert sorted(row["asset"] for row in http.get("/assets").json()) == names
    last = http.get("/last", params={"asset": names[0]}).json()
    assert last["timestamp"] == [bar["timestamp"] for bar in bars if bar["asset"] == names[0]]
    assert len(last["score"]) == len(last["features"]["intraday_return"]) == 60
    assert last["score"][-1] == pytest.approx(answer.json()["verdicts"][-len(names)]["score"], rel=1e-5)
    metrics = http.get("/metrics").text
    assert f"refold_bars_total {len(bars)}.0" in metrics
    assert "refold_latency_seconds_count 1.0" in metrics
    assert re.search(rf'refold_newest_bar_age_seconds{{asset="{names[0]}"}} \d', metrics)
    assert f'refold_drift{{asset="{names[0]}"}} ' in metrics
    assert "refold_drift_of_all " in metrics
    assert http.get("/last", params={"asset": "<b>"}).status_code == 404
    paths = http.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/bars", "/verdicts", "/health", "/metrics", "/assets", "/last"}


def test_a_bad_bar_has_a_status_of_its_own_and_the_others_stay(last_run, bars):
    http = client(last_run)
    one = bars[0]
    assert http.post("/bars", json=one).json()["verdicts"][0]["status"] == 200
    mixed = [
        one,
        {**one, "close": one["close"] * 1.01},
        {**one, "close": "x"},
        5,
        {**bars[-1], "timestamp": "2999-01-01"},
    ]
    answer = http.post("/bars", json=[*mixed, bars[-1]])
    assert answer.status_code == 422
    found = answer.json()
    assert [said["status"] for said in found["verdicts"]] == [200, 409, 422, 422, 422, 200]
    assert found["accepted"] == 1
    assert all(said["note"] for said in found["verdicts"] if said["status"] != 200)
    assert http.post("/bars", json={**one, "close": "x"}).status_code == 422
    text = ("timestamp,asset,open,high,low,close,volume\n2013-03-01,ZZ,1,1,1,1,1\n", "text/csv")
    assert http.post("/bars", content=text[0], headers={"content-type": text[1]}).json()["accepted"] == 1


@pytest.mark.parametrize(
    ("content", "kind", "status", "told"),
    [
        (b"{", "application/json", 400, "the body is no JSON: "),
        (b"3", "application/json", 400, "it must be a bar or a list of bars"),
        (b"[" * 100_000, "application/json", 400, "the body is no JSON: "),
        (b"{}", "text/plain", 415, "content-type is text/plain; it must be one of application/json"),
        (b"{}", "", 415, "content-type is not given"),
        (b" " * 2000, "application/json", 413, "the body is larger than 1,000 bytes"),
        (None, "application/json", 413, "the body is larger than 1,000 bytes"),
    ],
)
def test_a_body_that_holds_no_bars_is_refused(content, kind, status, told, last_run):
    http = client(last_run, body=200_000 if content and content[:1] == b"[" else 1000)
    answer = http.post("/bars", content=content or in_two_parts(), headers={"content-type": kind})
    assert answer.status_code == status
    assert told in answer.json()["detail"]


def test_a_bar_that_stands_twice_in_one_request_is_no_mistake(last_run, bars):
    http, one = client(last_run), bars[0]
    answer = http.post("/bars", json=[one, one, {**one, "close": one["close"] * 1.01}, bars[-1], one])
    assert [said["status"] for said in answer.json()["verdicts"]] == [200, 200, 409, 200, 200]
    assert answer.json()["accepted"] == 2


def test_a_body_that_does_not_end_is_given_up(last_run):
    service = Service(Feed(load_run(last_run).live(), None, 1), "run")
    limits = Limits(token=None, body=10**6, rate=1000, hosts={"testserver"}, seconds=0.2)

    async def slowly():
        for _ in range(100):
            yield b" "
            await asyncio.sleep(0.05)

    answer = Client(make_app(service, limits)).post(
        "/bars", content=slowly(), headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["detail"]) == (408, "the body did not come within 0.2 s")


def test_a_client_that_goes_amid_its_body_is_no_error_of_the_server(last_run):
    app, sent = client(last_run).app, []
    parts = iter([{"type": "http.request", "body": b"[", "more_body": True}, {"type": "http.disconnect"}])

    async def receive():
        return next(parts, {"type": "http.disconnect"})

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"testserver"), (b"content-type", b"application/json"), (b"content-length", b"100")]
    scope = {"type": "http", "method": "POST", "path": "/bars", "query_string": b"", "headers": headers}
    asyncio.run(app(scope, receive, send))  # would raise, and a server would print a traceback
    assert sent[0]["status"] == 400


def test_more_requests_than_the_rate_wait(last_run):
    http = client(last_run, rate=2)
    answers = [http.post("/bars", json=[]) for _ in range(4)]
    assert [answer.status_code for answer in answers][:2] == [200, 200]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_a_token_is_asked_for_and_a_foreign_name_is_not_answered(last_run):
    http = client(last_run, token=TOKEN)
    for path in ("/assets", "/metrics", "/verdicts", "/last?asset=x", "/openapi.json"):
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}):
            answer = http.get(path, headers=given)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
    assert http.post("/bars", json=[]).status_code == 401
    assert http.get("/").status_code == http.get("/health").status_code == 200
    assert http.get("/assets", headers={"authorization": f"Bearer {TOKEN}"}).json() == []
    assert http.get("/health", headers={"host": "evil.example"}).status_code == 421


def test_a_slow_reader_loses_the_oldest_and_is_told_and_readers_are_bounded(last_run):
    async def told() -> list[str]:
        broadcast, slow, picky = Broadcast(), Reader(None, False), Reader("B", True)
        events = broadcast.events(slow)
        found = [await anext(events)]
        broadcast.readers.add(picky)
        for number in range(QUEUE + 7):
            broadcast.send("A", False, str(number))
        broadcast.send("B", True, "flag")
        found += [await anext(events), await anext(events)]
        assert list(picky.waiting) == ["flag"]
        await events.aclose()
        assert broadcast.readers == {picky}
        assert broadcast.lost == 8
        return found

    opened, lost, first = asyncio.run(told())
    assert opened.startswith(":")
    assert lost == 'event: lost\ndata: {"lost": 8}\n\n'
    assert first.startswith("data: 8\n\n")
    http = client(last_run)
    http.app.state.service.broadcast.readers |= {Reader(None, False) for _ in range(MOST_READERS)}
    assert http.get("/verdicts").status_code == 503


def test_what_the_page_shows_is_bounded():
    recent = Recent(["move"])
    for number in range(SHOWN + 10):
        day = Verdict(compose_day(number), "A", score=float(number), level=9.0, features={"move": 1.0}, expected={})
        recent.add([day, Verdict(None, None, reason="malformed"), Verdict(compose_day(number), "A", reason="late")])
    found = recent.of("A")
    assert found["score"] == [float(number) for number in range(10, SHOWN + 10)]
    assert found["timestamp"][-1] == compose_day(SHOWN + 9).isoformat()
    assert found["expected"]["move"][0] is None
    assert recent.assets()[0]["bars"] == SHOWN + 10
    for number in range(20):
        recent.add([Verdict(compose_day(number), f"asset {number}", score=1.0)])
    assert len(recent.assets()) == 21
    assert recent.of("A") == found


def compose_day(number: int):
    from datetime import date, timedelta

    return date(2020, 1, 1) + timedelta(days=number)


def test_the_page_loads_nothing_and_writes_no_markup(last_run):
    answer = client(last_run).get("/")
    text = PAGE.read_text()
    assert answer.text == text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "innerHTML" not in text  # names of assets are the user's
    for path in re.findall(r'get\([`"](\w+)', text):
        assert path in ("assets", "health", "last", "verdicts")


@pytest.mark.parametrize(
    ("host", "token", "told"),
    [
        ("0.0.0.0", None, "host is 0.0.0.0; other machines can reach it: set REFOLD_TOKEN"),
        ("localhost", "short", "REFOLD_TOKEN must have at least 16 printable"),
    ],
)
def test_other_machines_need_a_token_that_is_one(monkeypatch, host, token, told):
    monkeypatch.delenv("REFOLD_TOKEN", raising=False)
    assert serve.find_token("127.0.0.1") is None
    if token:
        monkeypatch.setenv("REFOLD_TOKEN", token)
    with pytest.raises(ConfigError, match=re.escape(told)):
        serve.find_token(host)


def test_a_port_in_use_and_an_address_that_is_none_are_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port is {port} of 127.0.0.1; Address already in use: port={port + 1}"):
            serve.bind("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"port is 0 of no.such.host.invalid; "):
        serve.bind("no.such.host.invalid", 0)


@pytest.fixture
def served(last_run, tmp_path):
    """(settings, token) -> a server of its own process, and its address; it is ended if the test does not end it."""
    started: list[subprocess.Popen] = []

    def start(*settings: str, token: str | None = None) -> tuple[subprocess.Popen, str]:
        environment = {**clean_environment(tmp_path), **({"REFOLD_TOKEN": token} if token else {})}
        process = subprocess.Popen(
            [sys.executable, "-m", "refold", "serve", f"run={last_run}", "port=0", *settings], cwd=tmp_path,
            env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        address = re.match(r"(http://127.0.0.1:\d+), ctrl-C ends it", process.stderr.readline())
        assert address
        return process, address[1]

    yield start
    for process in started:
        process.kill()
        process.wait(60)
        process.stderr.close()


@pytest.mark.slow
def test_slow_clients_are_bounded_and_the_others_are_served(served, bars):
    """200 readers that never read, 50 bodies that never end, 50 heads that never end: 100 readers may stay."""
    process, address = served()
    port = int(address.rpartition(":")[2])

    def opened(text: str) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        connection.sendall(text.encode())
        return connection

    host = "Host: localhost\r\n"
    readers = [opened(f"GET /verdicts HTTP/1.1\r\n{host}\r\n") for _ in range(200)]
    told = [connection.recv(12) for connection in readers]
    assert (told.count(b"HTTP/1.1 200"), told.count(b"HTTP/1.1 503")) == (MOST_READERS, 200 - MOST_READERS)
    kind = "Content-Type: application/json\r\nContent-Length: 100\r\n"
    bodies = [opened(f"POST /bars HTTP/1.1\r\n{host}{kind}\r\n[") for _ in range(50)]
    heads = [opened("GET /health HTTP/1.1\r\n") for _ in range(50)]
    before = memory_of(process)
    with httpx.Client(base_url=address, timeout=60) as http:
        for day in range(0, len(bars), 100):
            assert http.post("/bars", json=bars[day : day + 100]).status_code == 200
        assert http.get("/health").json()["bars"] == len(bars)
    assert memory_of(process) < before + 150
    for connection in heads:  # closed by the server
        assert connection.recv(1) == b""
    assert bodies[0].recv(12) == b"HTTP/1.1 408"
    process.send_signal(signal.SIGINT)  # while readers are there
    errors = process.stderr.read()
    assert process.wait(timeout=60) == 0, errors
    assert "Traceback" not in errors
    for connection in (*readers, *bodies, *heads):
        connection.close()


def memory_of(process: subprocess.Popen) -> float:
    """MiB that a process has."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@pytest.mark.slow
def test_a_browser_shows_bars_verdicts_and_charts_as_they_come(served, bars, tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    process, address = served(token=TOKEN)
    assets = sorted({bar["asset"] for bar in bars})
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as http:
        browser = Browser(program, f"{address}/", tmp_path / "profile")
        try:
            browser.wait_for("document.getElementById('access')?.hidden === false")  # it asks for the token
            browser.evaluate(
                f"document.getElementById('token').value = '{TOKEN}'; document.querySelector('#access button').click()"
            )
            while not http.get("/metrics").text.count("refold_readers 1.0"):
                time.sleep(0.1)
            assert http.post("/bars", json=bars[:-50]).status_code == 200
            rows = "document.querySelectorAll('#assets tr')"
            assert browser.wait_for(f"{rows}.length == {len(assets)} && [...{rows}].map(row => row.dataset.asset)")
            wild = {**bars[-50], "high": bars[-50]["high"] * 3, "close": bars[-50]["close"] * 3}
            assert http.post("/bars", json=wild).json()["verdicts"][0]["flagged"]
            first = "document.querySelector('#verdicts tr')"
            assert browser.wait_for(f"{first}.className == 'flagged' && {first}.dataset.asset") == wild["asset"]
            browser.evaluate(f"document.querySelector(`#assets tr[data-asset='{assets[1]}']`).click()")
            browser.wait_for(f"document.getElementById('asset').textContent.startsWith('{assets[1]},')")
            charts = browser.evaluate("[...document.querySelectorAll('#charts path')].map(path => path.dataset.line)")
            assert charts[:2] == ["score", "level"]
            assert charts.count("as reconstructed") == charts.count("as it came") >= 2
            assert browser.evaluate("document.getElementById('problem').textContent") == ""
        finally:
            browser.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0


@pytest.mark.slow
def test_a_server_streams_survives_its_readers_and_saves_when_it_ends(served, bars, tmp_path):
    process, address = served("state=live.pt", token=TOKEN)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=address, headers=headers, timeout=60) as http:
        idle = [socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) for _ in range(200)]
        with http.stream("GET", "/verdicts") as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith(": ")
            assert http.post("/bars", json=bars[:30]).status_code == 200
            told = [json.loads(line[6:]) for line in (next(lines) for _ in range(61)) if line.startswith("data: ")]
        assert [one["asset"] for one in told] == [bar["asset"] for bar in bars[:30]]
        huge = http.post("/bars", content=iter([b" " * 10**6] * 100), headers={"content-type": "application/json"})
        assert huge.status_code == 413
        assert http.get("/health").json()["bars"] == 30
        for connection in idle:
            connection.close()
    process.send_signal(signal.SIGINT)
    errors = process.stderr.read()
    assert process.wait(timeout=60) == 0, errors
    assert "30 bars of " in errors
    assert "Traceback" not in errors
    assert TOKEN not in errors
    assert TOKEN.encode() not in (tmp_path / "live.pt").read_bytes()
