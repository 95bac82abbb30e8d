"""`refold watch`: bars in, a line per verdict out, a state that is saved, and an end without a traceback."""

import contextlib
import io
import json
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import clean_environment, compose_run

from refold.cli.watch import watch
from refold.config.build import build_data
from refold.library.run import load_run
from refold.live.feed import Feed
from refold.live.lines import LineReader
from refold.live.live_detector import LiveDetector

KILLS = 4


@pytest.fixture(scope="module")
def last_run(train_once) -> Path:
    """A tiny run whose own alignment is last, so that it goes live without a fit."""
    return train_once("alignment=last")


@pytest.fixture(scope="module")
def csv(tmp_path_factory) -> bytes:
    """The last 60 days of the embedded stocks, as a feed sends them: day after day."""
    bars = build_data(compose_run([])).source.load().sort("timestamp", "asset")
    days = bars["timestamp"].unique().sort()[-60]
    return bars.filter(bars["timestamp"] >= days).write_csv().encode()


def judged(feed: Feed, data: bytes, size: int, skipped: int = 0) -> list[dict]:
    lines: list[str] = []
    watch(feed, LineReader(), [data[n : n + size] for n in range(0, len(data), size)], lines.append, skipped)
    return [json.loads(line) for line in "".join(lines).splitlines()]


def assert_same(told: list[dict], whole: list[dict]) -> None:
    """Equal but for the last bits of float32: the model's sums depend on how many windows come at once."""
    assert len(told) == len(whole)
    for one, other in zip(told, whole, strict=True):
        for key in ("score", "rarity", "expected_close"):
            assert (one[key] or 0.0) == pytest.approx(other[key] or 0.0, rel=1e-4)
        left_out = {"score", "rarity", "expected_close", "expected"}
        assert {k: v for k, v in one.items() if k not in left_out} == {
            k: v for k, v in other.items() if k not in left_out
        }


def test_a_verdict_per_bar_whatever_the_chunks_and_a_state_goes_on(last_run, csv, tmp_path):
    run, state = load_run(last_run), tmp_path / "live.pt"
    whole = judged(Feed(run.live(), None, 1), csv, 10**6)
    assert len(whole) == csv.count(b"\n") - 1
    assert sum(one["score"] is not None for one in whole) > 100
    assert {one["drift"] for one in whole} <= {"stable", "watch", "retrain", None}
    assert whole[-1]["drift"] is not None
    half = csv.index(b"\n", len(csv) // 2) + 1
    first = Feed(run.live(), state, 50)
    told = judged(first, csv[:half], 977)
    assert first.live.position == len(told)
    assert state.exists()
    first.save()
    second = Feed(LiveDetector.load(state, run), state, 50)
    told += judged(second, csv, 977, skipped=second.live.position)  # the file from its beginning
    assert_same(told, whole)
    assert f"{len(whole) - first.bars:,} bars of " in second.summary()


def test_bars_that_are_none_are_verdicts_too(last_run, csv):
    feed = Feed(load_run(last_run).live(), None, 1)
    header, one, two = csv.splitlines()[:3]
    said = judged(feed, b"\n".join([header, one, b"1,2", one, two, b""]), 7)
    assert [line["reason"] for line in said] == ["warming", "malformed", "duplicate", "warming"]
    assert "line 3 has 2 cells" in said[1]["note"]
    assert "2 refused (1 duplicate, 1 malformed)" in feed.summary()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "run has no value; give one: run=outputs/latest"),
        (("run={run}", "evry=3"), "evry: there is no such setting; did you mean every?"),
        (("run={run}", "every=3"), "every has no effect without state=FILE"),
        (("run={run}", "state=s.pt", "every=0"), "every is 0; it must be a whole number in [1, 1000000000]"),
        (("run={run}", "state=nowhere/s.pt"), "there is no folder nowhere"),
        (("run={run}", "follow=nowhere.csv"), "follow is nowhere.csv; there is no such file"),
        (("run={run}", "warm=nowhere.csv"), "warm is nowhere.csv; it cannot be read"),
        (("run={run}", "alignment=mean"), "alignment is mean; it must be last for live bars"),
        (("run={run}", "state={csv}"), "is truncated, or is no state that LiveDetector.save wrote"),
    ],
)
def test_a_mistake_is_one_message(last_run, script, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    (tmp_path / "bars.csv").write_text("date,close\n")
    found = [text.format(run=last_run, csv=tmp_path / "bars.csv") for text in arguments]
    status, printed, errors = script("watch", *found)
    assert status == 2
    assert message in errors
    assert not printed


def started(last_run: Path, folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "refold", "watch", f"run={last_run}", *arguments], cwd=folder,
        env=clean_environment(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_ends(last_run, csv, tmp_path, number):
    process = started(last_run, tmp_path, "state=live.pt", "every=1000000")
    process.stdin.write(csv)
    process.stdin.flush()
    lines = [process.stdout.readline() for _ in range(csv.count(b"\n") - 1)]
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert not out
    assert b"Traceback" not in errors
    assert b"state in live.pt" in errors
    assert LiveDetector.load(tmp_path / "live.pt", load_run(last_run)).position == len(lines)


@pytest.mark.slow
def test_a_reader_that_ends_ends_it_and_the_state_is_saved(last_run, csv, tmp_path):
    process = started(last_run, tmp_path, "state=live.pt")
    process.stdin.write(csv[: len(csv) // 2])
    process.stdin.flush()
    process.stdout.readline()
    process.stdout.close()
    process.stdin.write(csv[len(csv) // 2 :])
    process.stdin.flush()
    assert process.wait(timeout=60) == 0  # although its standard input is still open
    errors = process.stderr.read()
    assert b"Traceback" not in errors
    assert (tmp_path / "live.pt").exists()
    process.stdin.close()
    process.stderr.close()


@pytest.mark.slow
def test_killed_and_fed_again_it_loses_no_bar(last_run, csv, tmp_path):
    """After each SIGKILL the feed begins anew: what the state has seen is refused, and each bar has one verdict."""
    whole = {
        (one["asset"], one["timestamp"]): one for one in judged(Feed(load_run(last_run).live(), None, 1), csv, 10**6)
    }
    told: dict[tuple, dict] = {}
    draw, kills, refused = random.Random(0), 0, 0
    two = csv.index(b"\n", csv.index(b"\n") + 1) + 1  # bytes of the header and a bar
    while True:
        process = started(last_run, tmp_path, "state=live.pt", "every=20")
        process.stdin.write(csv[:two])  # what comes while it starts is judged at once
        process.stdin.flush()
        lines = [process.stdout.readline()]
        feeder = threading.Thread(target=fed_slowly, args=(process.stdin, csv[two:]), daemon=True)
        feeder.start()
        if kills < KILLS:
            lines += [process.stdout.readline() for _ in range(draw.randint(60, 150))]
            process.kill()
            kills += 1
        lines += process.stdout.read().splitlines(keepends=True)
        process.wait(60)
        feeder.join(60)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        for one in map(json.loads, [line for line in lines if line.endswith(b"\n")]):
            key = one["asset"], one["timestamp"]
            if not one["accepted"]:
                assert one["reason"] in ("duplicate", "late")
                assert key in told
                refused += 1
                continue
            assert_same([one], [whole[key]])
            told[key] = one
        process.stdout.close()
        process.stderr.close()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills == KILLS
    assert refused > 20
    assert told.keys() == whole.keys()


def fed_slowly(stdin, data: bytes) -> None:
    """Write bytes as a feed does, until the end or until nobody reads."""
    with contextlib.suppress(BrokenPipeError, ValueError):
        for start in range(0, len(data), 600):
            stdin.write(data[start : start + 600])
            stdin.flush()
            time.sleep(0.01)
        stdin.close()


@pytest.mark.slow
def test_a_file_that_grows_is_followed_from_where_the_state_is(last_run, csv, tmp_path):
    half = csv.index(b"\n", len(csv) // 2) + 1
    (tmp_path / "bars.csv").write_bytes(csv[:half])
    told = []
    for more in (b"", csv[half:]):
        process = started(last_run, tmp_path, "follow=bars.csv", "state=live.pt", "every=1")
        with (tmp_path / "bars.csv").open("ab") as file:
            file.write(more)
        wanted = (more or csv[:half]).count(b"\n") - (0 if more else 1)
        told += [json.loads(process.stdout.readline()) for _ in range(wanted)]
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
        assert not out, errors
    assert_same(told, judged(Feed(load_run(last_run).live(), None, 1), csv, 10**6))
