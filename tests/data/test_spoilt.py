"""What becomes of spoilt files, and of random ones: a set of sound windows or a DataError, nothing else."""

from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from refold.data import WindowDataModule
from refold.data.bars.findings import CHECKS
from refold.data.sources import Csv, Parquet
from refold.errors import DataError
from tests.data.makers import ALL_FEATURES, checks, fractions, module, table
from tests.data.spoilt import CASES, Case


def read(case: Case, path) -> WindowDataModule:
    path.write_text("\n".join(case.lines) + ("\n" if case.lines else ""))
    chosen = {"features": ["log_return"], "window_size": 4, "calendar": "union", **case.settings}
    policies = checks(
        calendar=chosen.pop("calendar"),
        interval=chosen.pop("interval", None),
        kind=case.table.get("kind", "prices"),
        **case.policies,
    )
    if case.parquet is None:
        source = Csv(path=str(path), **{"separator": None, **case.source}, table=table(**case.table))
    else:
        pl.read_csv(path, try_parse_dates=True).with_columns(**case.parquet).write_parquet(path)
        source = Parquet(path=str(path), table=table(**case.table))
    made = module(pl.DataFrame(), source=source, checks=policies, max_masked=2, **chosen)
    made.setup()
    return made


def outcome(case: Case, path) -> str:
    try:
        data = read(case, path)
    except (DataError, ValueError) as error:
        return str(error).replace(str(path), "FILE")
    counts = [len(windows) for windows in (data.train_windows, data.val_windows, data.test_windows)]
    found = [f"{check} {policy} {asset} {bars} {first}" for check, policy, asset, bars, first in data.findings.rows()]
    masked = data.train_windows.series.present is not None
    return f"{counts} windows{', some bars masked' * masked}; {'; '.join(found) or 'nothing found'}"


def expected() -> dict[str, str]:
    """The rows of spoilt.md: name of the case -> outcome."""
    lines = Path(__file__).with_name("spoilt.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ", 1) for line in lines if line.startswith("| ")][1:]
    return {name: outcome.replace("`", "") for name, outcome in rows}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_outcome(case, tmp_path):
    assert outcome(case, tmp_path / "prices.csv") == expected()[case.name]


def test_the_table_has_every_case_and_at_least_forty():
    assert list(expected()) == [case.name for case in CASES]
    assert len(CASES) >= 40


# Random bars ----------------------------------------------------------------------------------------------------------

ODD = st.sampled_from([None, float("nan"), float("inf"), -1.0, 0.0, 1e-300, 1e300, 1e9])
PRICE = st.one_of(st.floats(1.0, 200.0), st.floats(1.0, 200.0), st.floats(1.0, 200.0), ODD)
TIMES = {
    "days": [date(2024, 1, 1) + timedelta(days=day) for day in range(60)],
    "minutes": [datetime(2024, 1, 1, 9, 30) + timedelta(minutes=minute) for minute in range(60)],
}


@st.composite
def markets(draw) -> pl.DataFrame:
    """Bars of up to three assets at random moments: sorted or not, whole or with odd values, complete or not."""
    moments = TIMES[draw(st.sampled_from(sorted(TIMES)))]
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kept = draw(st.sampled_from([1.0, 1.0, 0.97, 0.6]))
    odd = draw(
        st.lists(
            st.tuples(st.integers(0, 59), st.sampled_from(["open", "high", "low", "close", "volume"]), PRICE),
            max_size=4,
        )
    )
    rows = []
    for asset in "ABC"[: draw(st.integers(1, 3))]:
        for moment in moments:
            if generator.random() < kept:
                close, open_ = 100 + generator.normal(0, 2, 2)
                low, high = min(close, open_) - 1, max(close, open_) + 1
                rows.append([moment, asset, open_, high, low, close, float(generator.integers(0, 100))])
    names = ["timestamp", "asset", "open", "high", "low", "close", "volume"]
    bars = pl.DataFrame(rows, schema=dict.fromkeys(names), orient="row")
    if not bars.height:
        return bars.cast({"asset": pl.String, **dict.fromkeys(names[2:], pl.Float64)})
    for row, column, value in odd:
        number = row % bars.height
        at = pl.int_range(pl.len()) == number
        bars = bars.with_columns(pl.when(at).then(pl.lit(value, pl.Float64)).otherwise(column).alias(column))
    if draw(st.booleans()):
        bars = bars.sample(fraction=draw(st.sampled_from([1.0, 1.2])), with_replacement=True, seed=1)
    return bars.drop(draw(st.sampled_from([[], [], [], ["volume"], ["open", "high"]])))


@st.composite
def policies(draw) -> dict[str, str]:
    """Any policies, error seldom: it ends most examples before there is a window."""
    return {
        name: draw(st.sampled_from([policy for policy in check.policies if policy != "error"] * 4 + ["error"]))
        for name, check in CHECKS.items()
    }


RANDOM = given(
    bars=markets(),
    chosen=policies(),
    names=st.lists(st.sampled_from(ALL_FEATURES), min_size=1, max_size=4, unique=True),
    layout=st.sampled_from(["per_asset", "panel"]),
    min_assets=st.sampled_from([0.3, 1.0]),
    window_size=st.integers(1, 6),
    stride=st.integers(1, 3),
    max_masked=st.integers(0, 5),
    shortest=st.integers(1, 6),
    balanced=st.booleans(),
    calendar=st.sampled_from(["union", "XNYS", None]),
)
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=25, **QUIET)
@RANDOM
def test_random_bars_give_sound_windows_or_a_data_error(
    bars, chosen, names, layout, min_assets, window_size, stride, max_masked, shortest, balanced, calendar
):
    data = module(
        bars,
        features=names,
        layout=layout,
        min_assets=min_assets,
        window_size=window_size,
        stride=stride,
        max_masked=min(max_masked, window_size - 1),
        shortest_window=shortest if max_masked < shortest <= window_size else None,
        asset_weights="balanced" if balanced and layout == "per_asset" else None,
        split=fractions(0.4, 0.3),
        checks=checks(calendar=calendar, **chosen),
    )
    try:
        data.setup()
    except DataError:
        event("DataError")
        return
    event("windows")
    owner: dict[int, str] = {}
    for part in ("train", "val", "test"):
        windows = data.windows(part)
        index = np.arange(len(windows))
        values, mask, rows = windows.gather(index), windows.mask(index), windows.rows(index)
        assert len(windows) > 0
        assert torch.isfinite(values).all()
        if mask is not None:
            assert mask.any(dim=1).all()
            assert (values[~mask] == 0).all()
        assets = data.train_windows.series.assets(rows.reshape(-1))
        assert all(len(set(row)) == 1 for row in np.array(assets).reshape(rows.shape))
        assert (np.diff(windows.timestamps(index).astype("int64"), axis=1) >= 0).all()
        for row in set(rows.reshape(-1).tolist()):
            assert owner.setdefault(row, part) == part
    for batch in [*data.train_dataloader(), *data.test_dataloader()]:
        assert torch.isfinite(batch.windows).all()
        assert batch.mask is None or batch.mask.any(dim=1).all()
        assert np.isfinite(batch.weight)


@pytest.mark.slow
@settings(max_examples=275, **QUIET)
@RANDOM
def test_so_do_many_more(**drawn):
    test_random_bars_give_sound_windows_or_a_data_error.hypothesis.inner_test(**drawn)
