"""A run's verdict on the newest bar, at once, as a batch over all bars so far would give it under `alignment=last`."""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from refold.data.bars.expected import NOTHING
from refold.data.bars.table import Table
from refold.live import state_file
from refold.live.arrivals import Arrivals
from refold.live.causal import refuse_ahead
from refold.live.clock import Clock
from refold.live.feature_maker import FeatureMaker
from refold.live.judging import Judging, learns
from refold.live.past import Past
from refold.live.peers import Peers
from refold.live.reading import Bar, BarReader, Unread
from refold.live.revising import adjust, context_bars, revise
from refold.live.steps import Round, Stepper
from refold.live.traits import Traits
from refold.live.verdict import DUPLICATE, FUTURE, LATE, MALFORMED, Verdict
from refold.scoring.detector import Detector
from refold.scoring.drift import DriftTest
from refold.scoring.events import CONTEXT

log = logging.getLogger("refold.live")

AHEAD = 86_400_000_000
"""Microseconds that a bar may be ahead of the clock: a day, since times without a zone may be of any."""

REVISED = 64
"""Bars back from the newest of an asset that a revision can reach, at least."""

AT_ONCE = 4096
"""Bars that are kept waiting for the model at most."""

Frame = Any
"""A table of polars or pandas, long or wide."""


@dataclass(frozen=True)
class Origin:
    """The run and the settings that a live detector was made from.

    Attributes:
        run: hash of the run's weights and settings, which a state file must have too.
        settings: that were chosen anew.
        fitted: state of the score and threshold that were fitted for them; None: the run's own.
    """

    run: str
    settings: Mapping[str, str]
    fitted: Mapping[str, Any] | None = None


class LiveDetector:
    """Give verdicts on bars as they come, of any number of assets.

        live = run.live()
        live.warm(history)
        verdict = live.push({"timestamp": "2024-03-28", "asset": "AAPL", "open": 171.7, ...})

    It holds the past that it needs: a fixed number of bars of each asset.

    Args:
        detector: fitted under `alignment=last`, with the timetables of its run.
        table: how a bar's columns are found.
        canonical: reads a table of a user's into a canonical one.
        origin: what the detector was made of, for the state file.
        drift: test of whether the bars are like those of validation; None tests nothing.
        now: seconds since 1970, by which a bar is from the future.

    Raises:
        ConfigError: the detector needs what is not there yet when a bar comes.
    """

    def __init__(
        self,
        detector: Detector,
        table: Table,
        canonical: Callable[[Frame], pl.DataFrame],
        origin: Origin,
        *,
        drift: DriftTest | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        refuse_ahead(detector)
        self.detector, self.table, self.canonical, self.origin, self.now = detector, table, canonical, origin, now
        self.maker = FeatureMaker(detector.recipe.entries or ())
        self.clock = Clock()
        known = list(detector.validation.get("asset_names", ()))
        self.reader = BarReader(table, self.clock, self.maker.columns, known[0] if len(known) == 1 else None)
        self.counts: Counter[str] = Counter()
        self.drift = drift
        self.position = 0
        self.past: Past | None = None

    # ---- what can be asked -------------------------------------------------------------------------------------------

    @property
    def assets(self) -> list[str]:
        """Names of the assets that have a bar."""
        return [] if self.past is None else list(self.past.names)

    def newest(self, asset: str) -> Any:
        """Return the time of an asset's newest bar, or None."""
        place = None if self.past is None else self.past.places.get(asset)
        if self.past is None or place is None:
            return None
        last = int(self.past.arrays["bars"][place]) - 1
        return self.clock.moment(int(self.past.arrays["time"][place, last % self.past.kept]))

    def push(self, bar: Mapping[str, Any]) -> Verdict:
        """Judge the next bar.

        Args:
            bar: column -> value: timestamp, asset and the columns that the run's features are made of.

        Returns:
            The verdict; of a bar that cannot be taken in, the reason, and nothing has changed.
        """
        return self.push_many([bar])[0]

    def push_many(self, bars: "Sequence[Mapping[str, Any]] | Frame") -> list[Verdict]:
        """Judge bars that have come together, in order of time.

        Args:
            bars: mappings as for `push`, or a table such as `Run.score` takes.

        Returns:
            A verdict per bar, in the order of the bars.
        """
        return self._take(bars)

    def warm(self, bars: "Sequence[Mapping[str, Any]] | Frame") -> int:
        """Take in history, without verdicts.

        Of history that no score or level depends on, only as many bars of each asset are read as are kept.

        Args:
            bars: as for `push_many`.

        Returns:
            Bars that were taken in.
        """
        judged = learns(self.detector.threshold) or self.detector.score_function.before > 0
        before = self._held()
        if not judged and not isinstance(bars, Sequence):
            bars = _newest(self.canonical(bars), kept_bars(self.detector, self.maker))
        self._take(bars, judged=judged, quiet=True)
        return self._held() - before

    def _held(self) -> int:
        return 0 if self.past is None else int(self.past.arrays["bars"].sum())

    def revise(self, bar: Mapping[str, Any]) -> list[Verdict]:
        """Correct a bar that came before, or put in one that came late.

        Args:
            bar: as for `push`.

        Returns:
            The verdicts that have changed, its own among them, in order of time. A bar that is newer than its asset's
            newest is pushed. One that is older than what is kept is late, and nothing has changed.
        """
        return revise(self, bar)

    def adjust(self, asset: str, factor: float) -> None:
        """Multiply the prices of an asset's past by a factor, as a split does; volumes are divided by it.

        What was said of those bars stays. A split of two for one has the factor 0.5: push the first bar of the new
        prices after it.

        Args:
            asset: name.
            factor: above 0.

        Raises:
            ConfigError: the asset has no bars, the factor is no number above 0, or the bars are no prices.
        """
        adjust(self, asset, factor)

    def save(self, path: str | os.PathLike) -> None:
        """Write the state into a file, whole or not at all; bars that were pushed before it need not come again.

        Raises:
            ConfigError: the file cannot be written.
        """
        state_file.save(self, Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike, run: "state_file.GoesLive") -> "LiveDetector":
        """Read a state that `save` wrote; the next verdicts are those of a detector that never stopped.

        Args:
            path: of the file.
            run: the run that it was saved with.

        Raises:
            ConfigError: the file is not there, is truncated, or is of another run or version.
        """
        return state_file.load(Path(path), run)

    # ---- bars --------------------------------------------------------------------------------------------------------

    def _take(self, bars: Any, *, judged: bool = True, quiet: bool = False) -> list[Verdict]:
        """Read bars, and take in those that can be."""
        with np.errstate(all="ignore"):
            if isinstance(bars, Sequence):
                said, (assets, times, values, absent) = self._read(bars)
            else:
                table = self.canonical(bars)
                named = table["timestamp"].is_not_null() & table["asset"].is_not_null()
                lost = self.unread(Unread(None, None, "the row has no timestamp, or no asset"))
                said = [None if one else lost for one in named.to_list()]
                assets, times, values, absent = self.reader.read_table(table.filter(named))
            good = [number for number, one in enumerate(said) if one is None]
            for number, verdict in zip(good, self._judge(assets, times, values, absent, judged, quiet), strict=True):
                said[number] = verdict
        for one in said:
            if one is not None and one.reason is not None:
                self.counts[one.reason] += 1
            if one is not None and one.flagged:
                self.counts["flagged"] += 1
        self.counts["bars"] += len(said)
        self.position += len(said)
        return [one for one in said if one is not None]

    def _read(
        self, bars: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Verdict | None], tuple[list[str], np.ndarray, np.ndarray, np.ndarray]]:
        """Return the verdicts on mappings that cannot be read, None for the others, and what the others say."""
        if len(bars) > 1 and (alike := self.reader.read_alike(bars)) is not None:
            return [None] * len(bars), alike
        read = [self.reader.read(bar) for bar in bars]
        chosen = [bar for bar in read if isinstance(bar, Bar)]
        shape = (len(chosen), len(self.reader.columns))
        return [self.unread(one) if isinstance(one, Unread) else None for one in read], (
            [bar.asset for bar in chosen],
            np.array([bar.time for bar in chosen], dtype=np.int64),
            np.array([bar.values for bar in chosen], dtype=np.float64).reshape(shape),
            np.array([bar.absent for bar in chosen], dtype=bool).reshape(shape),
        )

    def unread(self, one: Unread) -> Verdict:
        """Return the verdict on a bar that cannot be read."""
        when = None if one.time is None else self.clock.moment(one.time)
        return Verdict(when, one.asset, reason=MALFORMED, note=one.note)

    def _judge(
        self, assets: list[str], times: np.ndarray, values: np.ndarray, absent: np.ndarray, judged: bool, quiet: bool
    ) -> list[Verdict | None]:
        """Take in bars that were read, moment after moment."""
        said: list[Verdict | None] = [None] * len(assets)
        if not assets:
            return said
        past, latest = self.history, self.now() * 1e6 + AHEAD
        waiting: list[tuple[np.ndarray, Round]] = []
        for number in _moments(times):
            time = int(times[number[0]])
            if time > latest:
                for one in number.tolist():
                    said[one] = self.refused(assets[one], time, FUTURE, "it is more than a day ahead of the clock")
                continue
            places = np.array([past.place(assets[one]) for one in number.tolist()])
            self.traits.add(past.names)
            fresh = self._fresh(places, number, time, values, absent, assets, said)
            number, places = number[fresh], places[fresh]
            if not len(number):
                continue
            self.arrivals.register(places, time, values[number], absent[number])
            waiting.append((number, self.steps.step(places, time, values[number], absent[number])))
            if sum(len(one) for one, _ in waiting) >= AT_ONCE or len(waiting) >= REVISED:
                self._finish(waiting, said, judged, quiet)
                waiting = []
        self._finish(waiting, said, judged, quiet)
        return said

    def _finish(
        self, waiting: list[tuple[np.ndarray, Round]], said: list[Verdict | None], judged: bool, quiet: bool
    ) -> None:
        """Judge the bars that wait for the model."""
        if not waiting or not judged:
            return
        rounds = [one for _, one in waiting]
        found = self.judging.judge(rounds)
        if quiet:
            return
        numbers = np.concatenate([number for number, _ in waiting]).tolist()
        if self.drift is None:
            verdicts = self.judging.verdicts(rounds, found)
        else:
            self._test_drift(self.drift, rounds, found.score)
            verdicts = self.judging.verdicts(rounds, found, self.drift.of)
        for number, verdict in zip(numbers, verdicts, strict=True):
            said[number] = verdict

    def _test_drift(self, drift: DriftTest, rounds: Sequence[Round], score: np.ndarray) -> None:
        """Give the test of drift the bars of some rounds that have a score."""
        past, first = self.history, 0
        for one in rounds:
            own = score[first : first + len(one.places)]
            first += len(own)
            there = np.isfinite(own)
            places, times = one.places[there], np.full(int(there.sum()), one.time)
            scaled = past.arrays["scaled"][places, one.row[there] % past.kept]
            names = [past.names[place] for place in places.tolist()]
            drift.push(names, times, np.concatenate([own[there, None], scaled], axis=1))

    def _fresh(
        self, places: np.ndarray, number: np.ndarray, time: int, values: np.ndarray, absent: np.ndarray,
        assets: list[str], said: list[Verdict | None],
    ) -> np.ndarray:  # fmt: skip
        """Refuse bars that are not newer than those of their asset; return which are, (n,) bool."""
        past = self.history
        arrays = past.arrays
        last = arrays["time"][places, (arrays["bars"][places] - 1) % past.kept]
        fresh = last < time
        if len(places) > 1:
            _, first = np.unique(places, return_index=True)
            alone = np.zeros(len(places), dtype=bool)
            alone[first] = True
            fresh &= alone
        for one in np.flatnonzero(~fresh).tolist():
            place, asset = int(places[one]), assets[number[one]]
            same = arrays["time"][place] == time
            if same.any() or last[one] < time:
                if last[one] < time:  # it stands twice among these bars
                    earlier = int(number[int((places == place).argmax())])
                    there, lacks = values[earlier], absent[earlier]
                else:
                    own = int(same.argmax())
                    there, lacks = arrays["raw"][place, own], arrays["raw_absent"][place, own]
                given = np.where(absent[number[one]], np.nan, values[number[one]])
                equal = np.array_equal(given, np.where(lacks, np.nan, there), equal_nan=True)
                note = None if equal else "a bar of that time is there with other values; revise corrects it"
                said[number[one]] = self.refused(asset, time, DUPLICATE, note)
            else:
                note = f"the asset's newest bar is of {self.clock.moment(int(last[one]))}; revise puts it in its place"
                said[number[one]] = self.refused(asset, time, LATE, note)
        return fresh

    def refused(self, asset: str, time: int, reason: str, note: str | None) -> Verdict:
        """Return the verdict on a bar that leaves no trace."""
        return Verdict(self.clock.moment(time), asset, reason=reason, note=note)

    def last_time(self, place: int) -> int:
        """Return the time of the newest bar of the asset at a place, in microseconds."""
        arrays = self.history.arrays
        return int(arrays["time"][place, (arrays["bars"][place] - 1) % self.history.kept])

    @property
    def history(self) -> Past:
        """Return the past of the assets; its arrays are made when the columns of the bars are known."""
        if self.past is None:
            detector, F = self.detector, len(self.detector.features)
            V = F if detector.score_function.names_features else 1
            self.past = Past(self.reader.columns, F, V, kept_bars(detector, self.maker))
            self._connect(self.past)
        return self.past

    def _connect(self, past: Past) -> None:
        """Put the parts together around a past."""
        self.peers = Peers(self.detector.recipe.checks.timetables or NOTHING)
        self.traits = Traits(self.detector, self.peers)
        self.arrivals = Arrivals(past, self.peers, self.traits, self.clock)
        self.steps = Stepper(self.arrivals, past, self.traits, self.maker)
        self.judging = Judging(past, self.peers, self.traits, self.clock)


def _moments(times: np.ndarray) -> list[np.ndarray]:
    """Group the numbers of bars by their times, in order of time; bars of one time keep their order."""
    if len(times) == 1:
        return [np.zeros(1, dtype=np.int64)]
    order = np.argsort(times, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(times[order])) + 1)


def _newest(bars: pl.DataFrame, count: int) -> pl.DataFrame:
    """Return the bars from the time on from which every asset has as many as are kept, or all of its own."""
    named = bars.drop_nulls(["timestamp", "asset"])
    if not named.height:
        return bars
    first = named.sort("timestamp").group_by("asset").agg(pl.col("timestamp").tail(count).first())
    return named.filter(pl.col("timestamp") >= first["timestamp"].min())


def kept_bars(detector: Detector, maker: FeatureMaker) -> int:
    """Return how many bars of an asset are kept."""
    return max(context_bars(detector, maker), CONTEXT) + REVISED
