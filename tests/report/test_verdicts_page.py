"""Two lists of events, their repairs, and the decisions of a reader: in the data of the page and in a browser."""

import json
import re
from datetime import timedelta
from html import unescape
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from refold.library.decisions import Decisions
from refold.report.page import write_page
from refold.scoring.repair import REPAIRS
from tests.report.test_page import ODD, make_events, make_scores, numbers, payload


def two_verdicts(scores: pl.DataFrame) -> pl.DataFrame:
    """Unusual events, which the scores flag, and two named ones."""
    unusual = make_events(scores).with_columns(
        verdict=pl.lit("unusual"), found_by=pl.lit("model"), bars=pl.lit(1, pl.Int64), done=pl.lit("flagged"),
        guess=pl.when(pl.col("kind") == "split").then(pl.lit("split and a 3 % move?")),
        once_in=pl.lit("3 years"),
    )  # fmt: skip
    named = unusual.head(2).with_columns(
        verdict=pl.lit("named"), kind=pl.Series(["wick", "split"]), probability=pl.Series([0.4, 0.9]),
        score=pl.Series([-0.4, 2.2]),
    )  # fmt: skip
    return pl.concat([unusual, named], how="diagonal_relaxed")


def repairs_of(scores: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """A repair of the first event, and of the second, a split."""
    bars = scores.join(events.select("asset", timestamp="start").unique(), on=["asset", "timestamp"], how="semi").head(
        2
    )
    shared = bars.select("asset", "timestamp", event_start="timestamp")
    tick = shared[:1].with_columns(
        explanation=pl.lit("tick"), column=pl.lit("close"), value=bars["close"][:1], proposed=bars["close"][:1] / 1.1,
        low=bars["close"][:1] / 1.2, high=bars["close"][:1],
    )  # fmt: skip
    split = shared[1:].with_columns(
        explanation=pl.lit("split"), column=pl.lit("all earlier prices"), factor=pl.lit(2.0)
    )
    return pl.concat([tick, split], how="diagonal_relaxed")


def page(path: Path, **others: object) -> tuple[pl.DataFrame, pl.DataFrame]:
    scores = make_scores((ODD, "B"), 80)
    events = two_verdicts(scores)
    given = {"repairs": repairs_of(scores, events), "run": "r-1", "scorers": {"unusual": "Student", "named": "Planted"}}
    write_page(path, title="t", scores=scores, events=events, **{**given, **others})
    return scores, events


def test_named_and_unusual_events_stand_in_two_lists(tmp_path):
    scores, events = page(tmp_path / "report.html")
    data = payload(tmp_path / "report.html")
    named, unusual = data["events"]["named"], data["events"]["unusual"]
    assert (named["total"], unusual["total"]) == (2, events.height - 2)
    assert named["probability"] == [0.9, 0.4]
    assert named["kind"] == ["split", "wick"]
    assert (named["by"], unusual["by"]) == ("Planted", "Student")
    assert "split and a 3 % move?" in unusual["guess"]
    assert data["facts"]["events"] == str(events.height - 2)  # of the scores that are drawn
    first = events.filter(verdict="named")["start"][0]
    place = named["from"].index(str(first))
    close = scores.filter(pl.col("asset") == ODD, pl.col("timestamp") == first)["close"].item()
    assert named["repair"][place] == f"tick: close {close:.6g} to {close / 1.1:.6g} ({close / 1.2:.6g} to {close:.6g})"
    assert named["repair"][1 - place] == "split: earlier prices divided by 2"
    drawn = data["assets"][ODD]["repairs"]
    assert drawn["values"]["proposed"] == [pytest.approx(close / 1.1)]
    assert drawn["splits"]["factor"] == [2.0]
    assert data["assets"][ODD]["beside"]["kind"] == ["wick", "split"]
    assert data["assets"]["B"]["repairs"]["values"]["time"] == []
    assert set(REPAIRS) >= set(repairs_of(scores, events).columns)


PRESSED = r'<button[^>]* aria-pressed="true"'

CLICKS = """<script>
const wait = setInterval(async () => {
  if (document.body.dataset.ready !== "yes") return;
  clearInterval(wait);
  URL.createObjectURL = (blob) => { blob.text().then((text) => { document.body.dataset.saved = text; }); return "#"; };
  const buttons = (list) => document.querySelectorAll(`#${list}-events td button`);
  buttons("named")[0].click(); // confirmed
  buttons("unusual")[1].click(); // false alarm
  buttons("unusual")[3].click(); buttons("unusual")[3].click(); // taken back
  document.getElementById("save-decisions").click();
  document.body.dataset.kept = localStorage.getItem("refold-decisions:r-1");
}, 50);
</script>"""


def with_script(path: Path, script: str) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("</body>", script + "</body>"), encoding="utf-8")


def dataset(document: str, name: str) -> str:
    return unescape(re.search(f'data-{name}="([^"]*)"', document).group(1))


@pytest.mark.slow
def test_decisions_are_made_kept_and_saved_as_a_file_that_scoring_reads(tmp_path, open_page):
    path = tmp_path / "report.html"
    earlier = {"verdict": "unusual", "asset": "gone", "start": "1999-01-04", "end": "1999-01-04", "kind": "unit"}
    page(path, decisions=[{**earlier, "decision": "confirmed"}])
    with_script(path, CLICKS)
    document, console = open_page(path)
    assert console == []
    (tmp_path / "saved.json").write_text(dataset(document, "saved"))
    known = Decisions.read(tmp_path / "saved.json", "r-1")
    assert known.counted() == {
        "named": {"confirmed": 1, "false_alarms": 0, "precision": 1.0},
        "unusual": {"confirmed": 1, "false_alarms": 1, "precision": 0.5},
    }
    events = payload(path)["events"]
    chosen = {(one.verdict, one.asset, str(one.start.date())) for one in known.decisions}
    assert chosen == {
        ("named", events["named"]["asset"][0], events["named"]["from"][0]),
        ("unusual", events["unusual"]["asset"][0], events["unusual"]["from"][0]),
        ("unusual", "gone", "1999-01-04"),
    }
    assert len(json.loads(dataset(document, "kept"))) == 4  # the one that was taken back among them
    assert "1 of 1 named events confirmed (precision 1.00), 1 of 2 unusual events confirmed" in document
    assert len(re.findall(PRESSED, document)) == 2
    assert "proposed repair" in document
    assert document.count("split and a 3 % move?") >= 1
    assert "<b>A&amp;B" not in document


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["{", "7", '[null, 3, {"verdict": "odd"}, {"asset": 1}, []]'])
def test_what_else_the_browser_keeps_is_no_decision(kept, tmp_path, open_page):
    path = tmp_path / "report.html"
    page(path)
    text = path.read_text(encoding="utf-8")
    set_before = f"<script>localStorage.setItem('refold-decisions:r-1', {json.dumps(kept)});</script>"
    path.write_text(text.replace("<body>", "<body>" + set_before), encoding="utf-8")
    document, console = open_page(path)
    assert console == []
    assert 'data-ready="yes"' in document
    assert not re.search(PRESSED, document)
    assert re.search(r'<button id="save-decisions"[^>]* disabled', document)


@pytest.mark.slow
def test_a_page_of_no_run_has_no_buttons_and_one_list(tmp_path, open_page):
    scores = make_scores(("A",), 60)
    write_page(tmp_path / "report.html", title="t", scores=scores, events=make_events(scores))
    document, console = open_page(tmp_path / "report.html")
    assert console == []
    assert '<div id="named-events" hidden' in document
    assert "false alarm</button>" not in document


def test_times_of_a_zone_are_written_in_utc(tmp_path):
    scores = make_scores(("A",), 60)
    moments = scores["timestamp"].cast(pl.Datetime("us")).dt.offset_by("9h30m").dt.replace_time_zone("America/New_York")
    scores = scores.with_columns(timestamp=moments)
    write_page(tmp_path / "report.html", title="t", scores=scores, events=make_events(scores), run="r")
    events = payload(tmp_path / "report.html")["events"]["unusual"]
    wall = np.array(events["start"]).astype("datetime64[ms]")
    written = np.array(events["from"], dtype="datetime64[ms]")
    assert set(written - wall) == {np.timedelta64(timedelta(hours=5))}  # of winter, in 1990
    assert numbers(payload(tmp_path / "report.html")["assets"]["A"]["time"])[0] > 0
