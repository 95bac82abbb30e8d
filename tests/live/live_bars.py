"""Detectors, bars and comparisons of the tests of live bars."""

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from refold.data.long.ordered import read_sorted
from refold.live.live_detector import LiveDetector, Origin
from refold.live.verdict import Verdict
from refold.scoring.detector import Detector
from refold.scoring.events import OTHER
from refold.scoring.scan import RECONSTRUCTION, scan
from tests.data.makers import checks, random_bars, ready, table
from tests.scoring.test_detector import detector, parts, small_autoencoder


def fitted(
    lengths: Sequence[int] = (300, 300), *, score=None, threshold=None, bars: pl.DataFrame | None = None, **settings
) -> Detector:
    """A detector under `alignment=last` with small random weights and the timetables of its bars."""
    bars = random_bars(lengths) if bars is None else bars
    data = ready(bars, **settings)
    parts_of = {name: part for name, part in (("score", score), ("threshold", threshold)) if part is not None}
    made = detector(data, autoencoder=small_autoencoder(data.num_features), alignment="last", **parts_of)
    made.fit(*parts(bars))
    return made.checking(made.recipe.checks.when_scoring())


def live_of(judge: Detector, kind: str = "prices", **others) -> LiveDetector:
    settings = {"now": lambda: 4e9, **others}
    return LiveDetector(judge, table(kind=kind, adjusted=False), lambda frame: frame, Origin("run", {}), **settings)


def batch(judge: Detector, bars: pl.DataFrame) -> pl.DataFrame:
    """What `Run.score` makes of the bars, with the names of the checks that found something in each."""
    ordered = read_sorted([bars], judge.recipe.checks)
    runs: list[pl.DataFrame] = []

    class Runs:
        def add(self, found: Iterable[pl.DataFrame], shift: int = 0) -> None:
            runs.extend(found)

    scored = pl.concat(list(scan(judge, ordered, faulty=Runs(), features=True)))
    found: list[set[str]] = [set() for _ in range(scored.height)]
    for run in runs:
        for check, first, last in run.select("check", "first", "last").iter_rows():
            for row in range(first, last + 1):
                found[row].add(check)
    return scored.with_columns(pl.Series("found", [sorted(names) for names in found], dtype=pl.List(pl.String)))


def assert_same(verdicts: Sequence[Verdict], scored: pl.DataFrame, rtol: float = 2e-6) -> None:
    """Hold verdicts to a batch over the same bars: scores, levels, flags, findings, reasons, expectations."""
    by_bar = {(row["asset"], row["timestamp"]): row for row in scored.iter_rows(named=True)}
    assert len(verdicts) == len(by_bar)
    for one in verdicts:
        row = by_bar[one.asset, one.timestamp]
        where = f"{one.asset} {one.timestamp}: {one} {row}"
        assert one.reason == row["reason"], where
        assert sorted(one.found) == row["found"], where
        # a score that is a validation score, but for its last bit, may count that one or not
        for value, name, atol in (
            (one.score, "score", 1e-6), (one.level, "threshold", 1e-6), (one.rarity, "rarity", 0.02)
        ):  # fmt: skip
            assert (value is None) == (row[name] is None), where
            if value is not None:
                np.testing.assert_allclose(value, row[name], rtol=rtol, atol=atol, err_msg=where)
        if one.score is not None and abs(one.score - one.level) > 1e-5 * abs(one.level):
            assert one.flagged == row["verdict"], where
        if one.score is None:
            continue
        assert one.expected is not None
        for name, value in one.expected.items():
            np.testing.assert_allclose(value, row[RECONSTRUCTION + name], rtol=1e-4, atol=1e-6, err_msg=where)
        close = row.get("reconstructed_close")
        assert (close is None) == (one.expected_close is None), where
        if close is not None:
            np.testing.assert_allclose(one.expected_close, close, rtol=1e-5, err_msg=where)
        assert (one.kind is not None) == one.flagged
        assert one.kind in (None, OTHER, "unit", "split", "bad tick", "stale")


def in_time(bars: pl.DataFrame, order: np.random.Generator | None = None) -> list[dict]:
    """Bars as mappings, moment after moment, the assets of a moment in any order."""
    if order is not None:
        bars = bars[order.permutation(bars.height)]
    return list(bars.sort("timestamp", maintain_order=True).iter_rows(named=True))


__all__ = ["assert_same", "batch", "checks", "fitted", "in_time", "live_of", "random_bars"]
