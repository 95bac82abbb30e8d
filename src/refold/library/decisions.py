"""Decisions of a reader about events: read from the file that a report saves, obeyed by later scorings, and counted.

A decisions file is JSON, written by the page and read as plain values alone:

    {"refold_decisions": 1, "run": "2026-01-31_12-00-00_repeat-two-s0-7f3a91", "decisions": [
      {"verdict": "named", "asset": "AAPL", "start": "2000-06-21", "end": "2000-06-21", "kind": "split",
       "decision": "confirmed"}]}
"""

import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args

import polars as pl

from refold.errors import ConfigError, first_line
from refold.runs.bounded_files import read_text
from refold.scoring.moments import naive_times
from refold.scoring.scores.base_score import Question

FORMAT = 1

LARGEST_FILE = 20_000_000
"""Bytes of a decisions file that is read; a decision takes some 150."""

CONFIRMED, FALSE_ALARM = "confirmed", "false alarm"

_ALLOWED = {"verdict": get_args(Question), "decision": (CONFIRMED, FALSE_ALARM)}
_SHOWN = 80  # characters of a value that a message repeats


class Decision(NamedTuple):
    """A reader's decision about one event.

    Attributes:
        verdict: of the event.
        asset: its name.
        start: moment of its first bar, in UTC where the bars have a zone.
        end: moment of its last bar.
        kind: what the event was called.
        decision: CONFIRMED or FALSE_ALARM.
        written: the decision as it stands in the file, for the page.
    """

    verdict: str
    asset: str
    start: datetime
    end: datetime
    kind: str
    decision: str
    written: dict[str, str]


class Decisions:
    """Hold the decisions about the events of a run.

    Args:
        decisions: of one run.

    Attributes:
        dismissed_bars: flagged bars of the last scoring that were not raised again.
    """

    def __init__(self, decisions: list[Decision]) -> None:
        self.decisions = decisions
        self.dismissed_bars = 0
        self._dismissed: dict[tuple[str, str], tuple[list[datetime], list[datetime]]] = {}
        for one in sorted(decisions, key=lambda decision: decision.start):
            if one.decision == FALSE_ALARM:
                starts, ends = self._dismissed.setdefault((one.verdict, one.asset), ([], []))
                starts.append(one.start)
                ends.append(max(one.end, ends[-1]) if ends else one.end)

    @classmethod
    def read(cls, path: str | os.PathLike[str], run: str) -> Self:
        """Read a decisions file.

        Args:
            path: of the file.
            run: id of the run whose events are decided.

        Raises:
            ConfigError: the file cannot be read, is no decisions file, is about another run, or has a wrong decision
                or two that contradict each other.
        """
        path = Path(path)
        if not path.exists():
            raise ConfigError(f"decisions is {str(path)!r}; there is no such file")
        told = f"decisions is {str(path)!r}; it must be a file that a report saved"
        try:
            content = json.loads(read_text(path, LARGEST_FILE))
        except (OSError, ValueError, RecursionError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else first_line(error)
            raise ConfigError(f"{told}: {why}") from None
        if not isinstance(content, dict) or content.get("refold_decisions") != FORMAT:
            raise ConfigError(f'{told}: it does not begin with "refold_decisions": {FORMAT}')
        if content.get("run") != run:
            raise ConfigError(
                f"decisions is {str(path)!r}, about the events of run {_shown(content.get('run'))}; these are of run "
                f"{run!r}: give the decisions about this run, or run= that one"
            )
        if not isinstance(found := content.get("decisions"), list):
            raise ConfigError(f"{told}: its decisions are no list")
        known: dict[tuple[str, ...], Decision] = {}
        for number, one in enumerate(found, 1):
            own = _read_decision(one, f"{path}: decision {number}")
            other = known.setdefault((own.verdict, own.asset, str(own.start), str(own.end)), own)
            if other.decision != own.decision:
                raise ConfigError(
                    f"{path}: decision {number} is {own.decision}, an earlier one about the same event {other.decision}"
                )
        return cls(list(known.values()))

    def dismiss(self, tables: Iterable[pl.DataFrame], verdict: Question) -> Iterator[pl.DataFrame]:
        """Take the verdict of flagged bars away that lie in an event that was called a false alarm.

        Args:
            tables: scored bars: timestamp, asset, verdict.
            verdict: of the scores.

        Yields:
            The tables; scores and levels are as they were.
        """
        self.dismissed_bars = 0
        for table in tables:
            yield self._dismiss(table, verdict)

    def _dismiss(self, table: pl.DataFrame, verdict: Question) -> pl.DataFrame:
        flagged = table.with_row_index("row").filter("verdict").select("row", "asset", naive_times("timestamp"))
        taken = [row for row, asset, moment in flagged.iter_rows() if self._is_dismissed(verdict, asset, moment)]
        self.dismissed_bars += len(taken)
        if not taken:
            return table
        return table.with_columns(verdict=pl.col("verdict") & ~pl.int_range(pl.len()).is_in(taken))

    def _is_dismissed(self, verdict: str, asset: str, moment: datetime) -> bool:
        starts, ends = self._dismissed.get((verdict, asset), ([], []))
        place = bisect_right(starts, moment) - 1
        return place >= 0 and moment <= ends[place]

    def counted(self) -> dict[str, dict[str, Any]]:
        """Count the decisions about each verdict.

        Returns:
            verdict -> confirmed, false_alarms and precision, the share that was confirmed.
        """
        counts = {}
        for verdict in get_args(Question):
            own = [one.decision for one in self.decisions if one.verdict == verdict]
            if own:
                right = own.count(CONFIRMED)
                counts[verdict] = {
                    "confirmed": right,
                    "false_alarms": len(own) - right,
                    "precision": right / len(own),
                }
        return counts


def decisions_words(counted: dict[str, dict[str, Any]], dismissed: int) -> str:
    """Say how many events were confirmed, for people.

    Args:
        counted: as `Decisions.counted` returns it.
        dismissed: flagged bars that are not raised again.
    """
    parts = [
        f"{found['confirmed']:,} of {found['confirmed'] + found['false_alarms']:,} {verdict} events confirmed "
        f"(precision {found['precision']:.2f})"
        for verdict, found in counted.items()
    ]
    bars = f"{dismissed:,} flagged bar{'s' * (dismissed != 1)}"
    return f"decisions so far: {', '.join(parts) or 'none'}; {bars} dismissed before and not raised again"


def _read_decision(one: Any, where: str) -> Decision:
    """Check one decision of a file."""
    names = ("verdict", "asset", "start", "end", "kind", "decision")
    if not isinstance(one, dict) or not all(isinstance(one.get(name), str) for name in names):
        raise ConfigError(f"{where} must have the texts {', '.join(names)}; it is {_shown(one)}")
    for name, allowed in _ALLOWED.items():
        if one[name] not in allowed:
            raise ConfigError(f"{where} has {name} {_shown(one[name])}; it must be one of {', '.join(allowed)}")
    times = []
    for name in ("start", "end"):
        try:
            time = datetime.fromisoformat(one[name])
            times.append(time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time)
        except (ValueError, OverflowError):
            raise ConfigError(f"{where} has {name} {_shown(one[name])}; it must be a date, as 2000-06-21") from None
    if times[1] < times[0]:
        raise ConfigError(f"{where} ends at {one['end']}, before its start {one['start']}")
    written = {name: one[name] for name in names}
    return Decision(one["verdict"], one["asset"], times[0], times[1], one["kind"], one["decision"], written)


def _shown(value: Any) -> str:
    """Return a value of a file for a message: short, and without characters that a terminal obeys."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
