"""Decisions about events: what a file may hold, what it silences, and what it says of the precision."""

import json
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from refold.errors import ConfigError
from refold.library.decisions import Decisions, decisions_words
from refold.scoring.moments import moment_texts

DAYS = [date(2020, 1, 1) + timedelta(days=n) for n in range(6)]


def decision(**others: str) -> dict[str, str]:
    """A false alarm of asset A on the second day."""
    own = {"verdict": "unusual", "asset": "A", "start": "2020-01-02", "end": "2020-01-02", "kind": "regime"}
    return {**own, "decision": "false alarm", **others}


def content(*decisions: object, **others: object) -> dict[str, object]:
    return {"refold_decisions": 1, "run": "own", "decisions": list(decisions), **others}


def read(tmp_path: Path, text: object) -> Decisions:
    path = tmp_path / "decisions.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return Decisions.read(path, "own")


def scored(times: pl.Series | list, assets: str = "AAABBB") -> pl.DataFrame:
    return pl.DataFrame({"timestamp": times, "asset": list(assets), "verdict": [True] * 6})


def left(decisions: Decisions, table: pl.DataFrame, verdict: str = "unusual") -> list[bool]:
    """The verdicts of a table of two pieces."""
    return pl.concat(decisions.dismiss([table[:2], table[2:]], verdict))["verdict"].to_list()


def test_a_dismissed_event_is_not_raised_again_by_the_verdict_that_raised_it(tmp_path):
    known = read(
        tmp_path,
        content(
            decision(),
            decision(start="2020-01-05", end="2020-01-09", asset="B"),
            decision(start="2020-01-06", end="2020-01-06", asset="B"),  # within the one before
            decision(start="2020-01-01", end="2020-01-03", decision="confirmed"),
        ),
    )
    table = scored(DAYS)
    assert left(known, table) == [True, False, True, True, False, False]
    assert known.dismissed_bars == 3
    assert left(known, table, "named") == [True] * 6
    assert known.dismissed_bars == 0


@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_times_within_the_day_are_written_and_found_again(zone, tmp_path):
    moments = [datetime(2020, 3, 2, 9, 30) + timedelta(minutes=n) for n in range(6)]
    times = pl.Series(moments).cast(pl.Datetime("ns")).dt.replace_time_zone(zone)
    texts = moment_texts(times)
    assert texts[1] == ("2020-03-02T14:31:00.000000" if zone else "2020-03-02T09:31:00.000000")
    known = read(tmp_path, content(decision(start=texts[1], end=texts[2])))
    assert left(known, scored(times)) == [True, False, False, True, True, True]


def test_the_precision_is_counted_for_each_verdict(tmp_path):
    right = [decision(start=f"2020-02-0{n}", end=f"2020-02-0{n}", decision="confirmed") for n in (1, 2, 3)]
    named = decision(verdict="named", decision="confirmed")
    counted = read(tmp_path, content(*right, right[0], decision(), named)).counted()
    assert counted == {
        "named": {"confirmed": 1, "false_alarms": 0, "precision": 1.0},
        "unusual": {"confirmed": 3, "false_alarms": 1, "precision": 0.75},
    }
    words = decisions_words(counted, 1)
    assert "3 of 4 unusual events confirmed (precision 0.75)" in words
    assert "1 flagged bar dismissed" in words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it must be a file that a report saved: Expecting"),
        ("[" * 100_000, "it must be a file that a report saved: it is nested too deeply"),
        ("[]", 'it does not begin with "refold_decisions": 1'),
        (content(refold_decisions=2), 'it does not begin with "refold_decisions": 1'),
        (content(run="other"), "about the events of run 'other'; these are of run 'own'"),
        (content(run="\x1b[31m" * 50), r"about the events of run '\\x1b\[31m"),
        (content(decisions={}), "its decisions are no list"),
        (content(7), "decision 1 must have the texts verdict, asset, start, end, kind, decision; it is 7"),
        (content(decision(), decision(asset=None)), "decision 2 must have the texts"),
        (content(decision(decision="maybe")), "decision 'maybe'; it must be one of confirmed, false alarm"),
        (content(decision(verdict="odd")), "verdict 'odd'; it must be one of named, unusual"),
        (content(decision(start="monday")), "start 'monday'; it must be a date, as 2000-06-21"),
        (content(decision(end="9999-12-31T23:00:00-12:00")), "end '9999-12-31T23:00:00-12:00'; it must be a date"),
        (content(decision(end="2019-01-01")), "ends at 2019-01-01, before its start 2020-01-02"),
        (content(decision(), decision(decision="confirmed")), "decision 2 is confirmed, an earlier one about the same"),
    ],
)
def test_a_file_that_no_report_saved_is_refused_in_one_line(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"gone\.json'; there is no such file"):
        Decisions.read(tmp_path / "gone.json", "own")
    with pytest.raises(ConfigError, match="it is not a file"):
        Decisions.read(tmp_path, "own")
    monkeypatch.setattr("refold.library.decisions.LARGEST_FILE", 10)
    with pytest.raises(ConfigError, match="it is larger than 10 bytes"):
        read(tmp_path, content())
