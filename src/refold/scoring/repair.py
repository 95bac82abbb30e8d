"""Propose what the bars of an event should have been, from the prices around them and from what of them is sound.

A few explanations are tried for each event. Each of them changes some prices and leaves the others:

    tick        the close, and a high or low that it made       from the bar's open and the next open
    open        the open, and a high or low that it made        from the last close and the bar's close
    wick        the high or the low                             from open, close and the usual shadow
    whole bar   all four, by one factor                         open and close then fit the bars on both sides
    unit        all four, by 100 or 1,000, of some bars         exact
    split       all earlier bars, by a ratio of shares          exact
    stale       all four, of bars that stand at one price       on the line from the close before to the next open

An explanation is taken if it makes the prices likelier by more than an assumption costs, and if trade was not heavy:
real moves stay as they are. The likelihood is a Student distribution of the moves over night and within the bar, and of
the shadows, in units of their usual size around the bar. Intervals are measured: the same proposals are made for sound
bars of the same table, and widened until COVERAGE of their own prices lie within.

Letters: N bars.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from refold.data.bars.market import (
    SPLIT_RATIOS,
    UNIT_RATIOS,
    calm_trade,
    in_order,
    overnight_jump,
    quiet_peers,
    survey,
)
from refold.data.bars.table import PRICES
from refold.errors import DataError
from refold.scoring.usual import Usual

COVERAGE = 0.9
"""Share of sound prices that lie within the interval that would have been proposed for them."""

EARLIER = "all earlier prices"
"""In place of a column: a split changes all bars before it."""

REPAIRS = {
    "asset": pl.String,
    "timestamp": None,  # that of the bars
    "event_start": None,
    "explanation": pl.String,
    "column": pl.String,
    "value": pl.Float64,
    "proposed": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "factor": pl.Float64,
    "return": pl.Float64,
    "repaired_return": pl.Float64,
    "next_return": pl.Float64,
    "repaired_next_return": pl.Float64,
}
"""Columns of a table of repairs."""

_COST = {"tick": 4.0, "open": 4.0, "wick": 4.0, "whole bar": 5.0}
"""Gain of log likelihood that an explanation needs: an error of its kind is rarer than a usual bar by about e to it."""

_BESIDE = 4.0  # further gain that it needs beside the bars of the event
_BUSY = {"tick": 2.0, "open": 2.0, "wick": 3.0, "whole bar": 2.0}  # further gain per squared deviation of heavy trade

_HEAVY = 3.0  # robust deviations of log volume from which on a move is taken for a real one
_FREEDOM = 4.0  # degrees of freedom of the Student distribution
_SPLIT_TOLERANCE = 0.03  # of a log ratio; more where nights move more, less on a busy day
_UNIT_TOLERANCE = math.log(1.4)  # of a log ratio to the bars around
_SHORTEST_STALE = 2  # bars at one price, that of the last close
_LONGEST_EVENT = 250  # bars of an event that are looked at


def _surprise(z: np.ndarray | float) -> np.ndarray:
    return (_FREEDOM + 1) / 2 * np.log1p(np.square(z) / _FREEDOM)


@dataclass
class Change:
    """A change of the log prices of one bar.

    Attributes:
        explanation: why, such as "tick".
        row: of the bar.
        prices: column -> new log price.
        deviation: column -> its standard deviation, 0 where it is exact.
        factor: by which the bar, or all earlier ones, was too large; None if there is no such factor.
    """

    explanation: str
    row: int
    prices: dict[str, float]
    deviation: dict[str, float]
    factor: float | None = None


@dataclass
class Repairer:
    """Explain the events of a table of bars.

    Args:
        bars: N canonical bars with open, high, low and close, sorted by asset, then time.
    """

    bars: pl.DataFrame
    changes: list[tuple[int, Change]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.usual = Usual(self.bars)
        self.log = {name: values.copy() for name, values in self.usual.log.items()}
        jump = overnight_jump(self.bars.columns)
        real = ~(calm_trade(self.bars.columns) & quiet_peers(jump, survey(self.bars)))
        self.loud = self.bars.select(real.fill_null(True)).to_series().to_numpy()
        self.done: set[int] = set()

    # ---- one event ---------------------------------------------------------------------------------------------------

    def explain(self, first: int, last: int) -> Iterator[Change]:
        """Yield the changes that explain an event.

        Args:
            first: row of its first bar.
            last: row of its last bar, of the same asset.
        """
        start, end = self.usual.first[first], self.usual.last[first]
        rows = range(max(first - 1, start), min(last, first + _LONGEST_EVENT, end - 1) + 2)
        rows = range(rows.start, min(rows.stop, end + 1))
        yield from self._units(rows)
        yield from self._splits(rows)
        yield from self._stale(rows)
        for _ in rows:  # the best single change first: its neighbours may be explained by it
            best = max(
                (
                    (gain - _BESIDE * (not first <= row <= last), change)
                    for row in rows
                    if row not in self.done
                    for gain, change in self._single(row)
                ),
                key=lambda pair: pair[0],
                default=(0.0, None),
            )
            if best[1] is None or best[0] <= 0:
                return
            yield self._take(best[1])

    def _take(self, change: Change) -> Change:
        for name, value in change.prices.items():
            self.log[name][change.row] = value
        self.done.add(change.row)
        return change

    def _units(self, rows: range) -> Iterator[Change]:
        """Find bars whose level is 100 or 1,000 times that of the bars around, or the inverse."""
        for row in rows:
            away = self.log["close"][row] - self.usual.level[row]
            for ratio in UNIT_RATIOS:
                target = math.copysign(math.log(ratio), away)
                if row not in self.done and abs(away - target) < _UNIT_TOLERANCE:
                    prices = {name: self.log[name][row] - target for name in PRICES}
                    yield self._take(
                        Change("unit", row, prices, dict.fromkeys(PRICES, 0.0), ratio if away > 0 else 1 / ratio)
                    )

    def _splits(self, rows: range) -> Iterator[Change]:
        """Find a jump over night by the ratio of a split that stays, on calm trade, without the peers."""
        for row in rows:
            if row in self.done or self.loud[row] or row in (self.usual.first[row], self.usual.last[row]):
                continue
            jump = self.log["open"][row] - self.log["close"][row - 1]
            busy = self.usual.busy_money[row]
            tolerance = max(_SPLIT_TOLERANCE, min(3 * self.usual.night[row], 2 * _SPLIT_TOLERANCE))
            tolerance = tolerance if busy < _HEAVY / 2 else _SPLIT_TOLERANCE / 2 if busy < _HEAVY else 0.0
            near = min(SPLIT_RATIOS, key=lambda ratio: abs(abs(jump) - math.log(ratio)))
            following = self.log["open"][row + 1] - self.log["close"][row]
            inside = self.log["close"][row] - self.log["open"][row]
            stays = max(abs(following), abs(inside)) < abs(jump) / 2
            before = self.log["close"][row - 1] - self.log["open"][row - 1]
            if abs(abs(jump) - math.log(near)) < tolerance and stays and abs(before) < abs(jump) / 2:
                self.done.add(row)
                yield Change("split", row, {}, {}, near if jump < 0 else 1 / near)

    def _stale(self, rows: range) -> Iterator[Change]:
        """Find bars that stand at the last close in all prices, and put them on the line over them."""
        for row in rows:
            first = row
            while first > self.usual.first[row] and self._stands(first):
                first -= 1
            last = first
            while last < self.usual.last[row] and self._stands(last + 1):
                last += 1
            count = last - first
            halted = count > 0 and float(np.median(self.usual.heavy[first + 1 : last + 1])) < -_HEAVY
            if row in self.done or count < _SHORTEST_STALE or last == self.usual.last[row] or halted:
                continue
            start, goal = self.log["close"][first], self.log["open"][last + 1]
            night, day = self.usual.night[row] ** 2, self.usual.day[row] ** 2
            total = count * (night + day) + night
            for step in range(1, count + 1):
                bar, prices, deviation = first + step, {}, {}
                for name, share in (
                    ("open", ((step - 1) * (night + day) + night) / total),
                    ("close", step * (night + day) / total),
                ):
                    prices[name] = start + share * (goal - start)
                    deviation[name] = math.sqrt(total * share * (1 - share))
                prices["high"] = max(prices["open"], prices["close"]) + self.usual.shadow["high"][row]
                prices["low"] = min(prices["open"], prices["close"]) - self.usual.shadow["low"][row]
                for name in ("high", "low"):
                    deviation[name] = math.hypot(max(deviation.values()), self.usual.spread[name][row])
                yield self._take(Change("stale", bar, prices, deviation))

    def _stands(self, row: int) -> bool:
        """Return whether all prices of a bar are the close before it."""
        if row == self.usual.first[row]:
            return False
        return all(self.log[name][row] == self.usual.log["close"][row - 1] for name in PRICES)

    # ---- one bar -----------------------------------------------------------------------------------------------------

    def _single(self, row: int) -> Iterator[tuple[float, Change]]:
        """Yield the explanations of one bar with what each gains above its cost."""
        busy = float(self.usual.heavy[row])
        if row == self.usual.first[row] or row == self.usual.last[row] or busy > _HEAVY:
            return
        here = {name: float(self.log[name][row]) for name in PRICES}
        before, after = float(self.log["close"][row - 1]), float(self.log["open"][row + 1])
        if not np.isfinite([*here.values(), before, after]).all():
            return
        known = self._cost(row, here, before, after)
        for change in self.usual.proposals(row, here, before, after):
            explanation, prices, deviation, factor = change
            made = {**here, **prices}
            gain = known - self._cost(row, made, before, after) - _COST[explanation]
            gain -= _BUSY[explanation] * max(0.0, busy) ** 2 + _BESIDE * (self._moves(row, made, before) > _HEAVY)
            if np.isfinite(gain):
                yield gain, Change(explanation, row, prices, deviation, factor)

    def _moves(self, row: int, prices: dict[str, float], before: float) -> float:
        """Return the larger move of a bar, over night or within it, in usual ones.

        What a change leaves of it was real, and a bar that moves has wide shadows and a wild next night.
        """
        night = prices["open"] - before - self.usual.night_mean[row]
        day = prices["close"] - prices["open"] - self.usual.day_mean[row]
        return float(max(abs(night) / self.usual.night[row], abs(day) / self.usual.day[row]))

    def _cost(self, row: int, prices: dict[str, float], before: float, after: float) -> float:
        """Return how surprising the moves and shadows of a bar are, with these prices."""
        night, day = self.usual.night[row], self.usual.day[row]
        total = _surprise((prices["open"] - before - self.usual.night_mean[row]) / night)
        total += _surprise((after - prices["close"] - self.usual.night_mean[row + 1]) / self.usual.night[row + 1])
        total += _surprise((prices["close"] - prices["open"] - self.usual.day_mean[row]) / day)
        for name, shadow in (
            ("high", prices["high"] - max(prices["open"], prices["close"])),
            ("low", min(prices["open"], prices["close"]) - prices["low"]),
        ):
            total += _surprise((shadow - self.usual.shadow[name][row]) / self.usual.spread[name][row])
        return float(total)


def repair(bars: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Propose what the bars of some events should have been.

    Args:
        bars: canonical bars with open, high, low and close.
        events: asset, start and end (timestamps) of each; others of their columns are not read.

    Returns:
        A row for each value that is to change, with the columns of REPAIRS: what it is and what it should be, with an
        interval, and the log returns to the last and of the next close as they are and as they would be. A split has
        one row, for all earlier prices; its factor divides them. An event that nothing explains has no row.

    Raises:
        DataError: the bars lack a price.
    """
    if missing := [name for name in PRICES if name not in bars.columns]:
        raise DataError(f"a repair needs open, high, low and close; the bars have no {', '.join(missing)}")
    bars = in_order(bars)
    repairer = Repairer(bars)
    spans = _rows_of(bars, events)
    touched = np.zeros(bars.height + 1, dtype=bool)
    for first, last in spans:
        touched[max(0, first - 1) : last + 2] = True
    wide = repairer.usual.widths(~touched[:-1], COVERAGE)
    found = [(first, change) for first, last in spans for change in repairer.explain(first, last)]
    return _table(bars, repairer, found, wide)


def _rows_of(bars: pl.DataFrame, events: pl.DataFrame) -> list[tuple[int, int]]:
    """Return the first and last rows of events; those without a bar are left out."""
    numbered = bars.select(pl.col("asset").cast(pl.String), "timestamp").with_row_index("row")
    wanted = events.select(pl.col("asset").cast(pl.String), "start", "end").drop_nulls().with_row_index("event")
    joined = wanted.join_where(
        numbered,
        pl.col("asset") == pl.col("asset_right"),
        pl.col("timestamp") >= pl.col("start"),
        pl.col("timestamp") <= pl.col("end"),
    )
    spans = joined.group_by("event").agg(pl.col("row").min().alias("first"), pl.col("row").max().alias("last"))
    return [(int(first), int(last)) for first, last in spans.sort("first", "last").select("first", "last").iter_rows()]


def _table(
    bars: pl.DataFrame, repairer: Repairer, found: list[tuple[int, Change]], wide: dict[str, float]
) -> pl.DataFrame:
    """Make the table of repairs of changes, each with the first row of its event."""
    old, new = repairer.usual.log["close"].copy(), repairer.log["close"].copy()
    for _, change in found:
        if change.explanation == "split" and change.factor is not None:
            rows = slice(int(repairer.usual.first[change.row]), change.row)
            new[rows] -= math.log(change.factor)
    records = []
    for event, change in found:
        row = change.row
        after = row + 1 if row < repairer.usual.last[row] else None
        shared = {
            "row": row,
            "event": event,
            "explanation": change.explanation,
            "factor": change.factor,
            "return": old[row] - old[row - 1] if row > repairer.usual.first[row] else None,
            "repaired_return": new[row] - new[row - 1] if row > repairer.usual.first[row] else None,
            "next_return": None if after is None else old[after] - old[row],
            "repaired_next_return": None if after is None else new[after] - new[row],
        }
        if change.explanation == "split":
            records.append({**shared, "column": EARLIER})
        for name, price in change.prices.items():
            away = wide[name if change.explanation == "wick" else change.explanation] * change.deviation[name]
            records.append(
                {
                    **shared,
                    "column": name,
                    "value": float(bars[name][row]),
                    "proposed": math.exp(price),
                    "low": math.exp(price - away),
                    "high": math.exp(price + away),
                }
            )
    moment = bars.schema["timestamp"]
    schema = {name: kind or moment for name, kind in REPAIRS.items()}
    if not records:
        return pl.DataFrame(schema=schema)
    numbers = {name: kind for name, kind in REPAIRS.items() if kind is not None and name not in ("asset",)}
    table = pl.DataFrame(records, schema={"row": pl.Int64, "event": pl.Int64, **numbers})
    at = table["row"].to_numpy(), table["event"].to_numpy()
    return table.with_columns(
        bars["asset"].cast(pl.String).gather(at[0]).alias("asset"),
        bars["timestamp"].gather(at[0]).alias("timestamp"),
        bars["timestamp"].gather(at[1]).alias("event_start"),
    ).select(*schema)


def apply_repairs(bars: pl.DataFrame, repairs: pl.DataFrame) -> pl.DataFrame:
    """Return a copy of bars with the proposed values in place of theirs.

    Args:
        bars: the bars that were repaired.
        repairs: of them, as `repair` returns them; rows that are left out are not applied.

    Returns:
        The bars in their order. The volume before a split is multiplied by its factor: traded value stays.
    """
    keys = ["asset", "timestamp"]
    result = bars.with_columns(pl.col("asset").cast(pl.String))
    values = repairs.filter(pl.col("proposed").is_not_null())
    for name in PRICES:
        own = values.filter(column=name).select(*keys, pl.col("proposed").alias("new"))
        result = result.join(own, on=keys, how="left", maintain_order="left").with_columns(
            pl.coalesce("new", name).alias(name)
        )
        result = result.drop("new")
    for split in repairs.filter(column=EARLIER).iter_rows(named=True):
        before = (pl.col("asset") == split["asset"]) & (pl.col("timestamp") < split["timestamp"])
        changed = [pl.col(name) / split["factor"] for name in PRICES]
        if "volume" in bars.columns:
            changed.append(pl.col("volume") * split["factor"])
        result = result.with_columns(
            pl.when(before).then(one).otherwise(pl.col(one.meta.output_name())).alias(one.meta.output_name())
            for one in changed
        )
    return result.with_columns(pl.col("asset").cast(bars.schema["asset"]))
