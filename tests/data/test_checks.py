from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from refold.data.bars.calendar import moments, sessions
from refold.data.bars.checks import Checks, unbroken
from refold.data.bars.findings import CHECKS, describe_findings
from refold.data.bars.market import survey
from refold.data.sources import Stocks
from refold.errors import DataError
from tests.data.makers import SOFT, checks, random_bars, ready, table, with_value

BARS = random_bars([60, 60])
ROW = 20  # the bar that is spoilt; asset A, 2020-01-21
STAMP = "2020-01-21"


def jump(factor: float, *, traded: float = 1.0) -> pl.DataFrame:
    """All prices from ROW on times a factor, volume so that price x volume changes by `traded`."""
    after = (pl.col("asset") == "A") & (pl.int_range(pl.len()) >= ROW)
    prices = pl.col("open", "high", "low", "close")
    level = pl.col("volume").first().over("asset")
    calm = BARS.with_columns(volume=level, open=pl.col("close").shift(1).over("asset").fill_null(pl.col("open")))
    calm = calm.with_columns(high=pl.max_horizontal("high", "open"), low=pl.min_horizontal("low", "open"))
    return calm.with_columns(
        pl.when(after).then(prices * factor).otherwise(prices),
        pl.when(after).then(pl.col("volume") / factor * traded).otherwise(pl.col("volume")).alias("volume"),
    )


SPOILT = {
    "missing_timestamp": BARS.with_columns(
        pl.when(pl.int_range(pl.len()) == ROW).then(None).otherwise(pl.col("timestamp")).alias("timestamp")
    ),
    "out_of_order": pl.concat([BARS[:ROW], BARS[ROW + 1 : ROW + 2], BARS[ROW : ROW + 1], BARS[ROW + 2 :]]),
    "duplicate": pl.concat([BARS[: ROW + 1], BARS[ROW : ROW + 1].with_columns(close=pl.col("open")), BARS[ROW + 1 :]]),
    "missing_value": with_value(BARS, [ROW], "close", None),
    "not_finite": with_value(BARS, [ROW], "high", float("inf")),
    "non_positive": with_value(BARS, [ROW], "volume", -1),
    "broken_bar": with_value(BARS, [ROW], "low", 1000.0).with_columns(high=pl.max_horizontal("high", "low")),
    "stale_run": with_value(BARS, range(ROW - 4, ROW + 1), "close", 40.0).with_columns(
        high=pl.max_horizontal("high", "close"), low=pl.min_horizontal("low", "close")
    ),
    "split_like": jump(0.5),
    "unit_like": jump(100.0),
    "gap": BARS.filter(pl.int_range(pl.len()) != ROW),
}
SPOILT_WITH_EXCHANGE = {"off_session": BARS}  # 2020-01-01 is a holiday, and the makers know no weekend


def test_every_check_is_tested():
    of_timetables = {"off_grid", "mixed_interval"}  # test_gaps.py
    assert set(SPOILT) | set(SPOILT_WITH_EXCHANGE) | {"feature_not_finite"} | of_timetables == set(CHECKS)


@pytest.mark.parametrize("name", SPOILT)
def test_a_fault_is_found_where_it_is_and_nowhere_else(name):
    softest = "warn" if "warn" in CHECKS[name].policies else "drop"
    found = checks(**{name: softest}).run(SPOILT[name]).table
    found = found.filter(pl.col("check") != "gap") if softest == "drop" else found
    first = None if name == "missing_timestamp" else STAMP
    assert found.rows() == [(name, softest, "A", 1, first)]


@pytest.mark.parametrize("name", SPOILT)
def test_error_names_bar_values_and_key(name):
    with pytest.raises(DataError) as error:
        checks(**{name: "error"}).run(SPOILT[name])
    message = str(error.value)
    assert CHECKS[name].complaint in message
    assert f"data.checks.policies.{name} is error; it can be " in message
    assert name == "missing_timestamp" or message.startswith(f"A {STAMP}")
    assert "\n" not in message


@pytest.mark.parametrize("name", [name for name in SPOILT if "mask" in CHECKS[name].policies and name != "gap"])
def test_masked_bars_keep_their_place_and_lose_their_values(name):
    spoilt = SPOILT[name]
    result = checks(**{name: "mask"}).run(spoilt).bars
    assert result.height == spoilt.height
    assert result["close"].null_count() == 1
    assert result.filter(pl.col("close").is_null())["timestamp"].to_list() == [date(2020, 1, 21)]


@pytest.mark.parametrize("name", [name for name in SPOILT if "drop" in CHECKS[name].policies])
def test_dropped_bars_are_gone_and_the_rest_is_as_it_was(name):
    spoilt = SPOILT[name]
    result = checks(**{name: "drop"}).run(spoilt).bars.with_columns(pl.col("asset").cast(pl.String))
    assert result.height == spoilt.height - 1
    assert result.join(spoilt, on=spoilt.columns, how="anti").height == 0


def test_drop_keeps_the_first_of_a_duplicate():
    kept = checks(duplicate="drop").run(SPOILT["duplicate"]).bars
    assert kept.height == BARS.height
    assert kept["close"].to_list() == BARS["close"].to_list()


def test_out_of_order_bars_are_sorted():
    result = checks().run(SPOILT["out_of_order"]).bars
    assert result["timestamp"].to_list() == BARS["timestamp"].to_list()
    assert result["close"].to_list() == BARS["close"].to_list()


def test_a_gap_that_is_masked_gets_a_bar_without_values():
    result = checks(gap="mask").run(SPOILT["gap"])
    assert result.bars.height == BARS.height
    assert result.bars["close"].is_null().arg_true().to_list() == [ROW]
    assert (np.diff(result.moment[:60]) == 1).all()


def test_gaps_of_several_bars_are_written_out():
    holes = [3, 10, 11, 12, 30]
    bars = BARS.filter(~pl.int_range(pl.len()).is_in(holes))
    result = checks(gap="mask").run(bars)
    assert result.bars["close"].is_null().arg_true().to_list() == holes
    assert result.table.rows() == [("gap", "mask", "A", 5, "2020-01-04")]


def test_true_splits_are_found_and_the_crash_is_not():
    found = checks(calendar="XNYS", split_like="mask").run(Stocks(table=table()).load()).bars
    masked = found.filter(pl.col("close").is_null()).select(pl.col("asset").cast(pl.String), "timestamp").rows()
    assert masked == [
        ("AAPL", date(2000, 6, 21)),
        ("AAPL", date(2005, 2, 28)),
        ("MSFT", date(2003, 2, 18)),
    ]


@pytest.mark.parametrize(
    ("factor", "traded", "found"), [(0.5, 1, 1), (2, 1, 1), (1 / 3, 1, 1), (0.5, 10, 0), (0.7, 1, 0)]
)
def test_a_jump_looks_like_a_split_if_its_ratio_does_and_trade_is_calm(factor, traded, found):
    assert checks().run(jump(factor, traded=traded)).table.filter(pl.col("check") == "split_like").height == found


def moving(*assets: str, by: float) -> pl.DataFrame:
    """Four quiet assets of 60 bars; from ROW on the prices of some are multiplied by a factor, on calm trade."""
    one = jump(1.0)[:60]
    whole = pl.concat(one.with_columns(pl.lit(name).alias("asset")) for name in "ABCD")
    after = pl.col("asset").is_in(assets) & (pl.col("timestamp") >= date(2020, 1, 21))
    return whole.with_columns(
        *(
            pl.when(after).then(pl.col(name) * by).otherwise(name).alias(name)
            for name in ("open", "high", "low", "close")
        ),
        pl.when(after).then(pl.col("volume") / by).otherwise("volume").alias("volume"),
    )


@pytest.mark.parametrize(
    ("assets", "by", "found"),
    [("A", 0.5, "A"), ("AB", 0.5, "AB"), ("ABC", 0.5, ""), ("ABCD", 0.5, ""), ("ABCD", 2.0, ""), ("D", 3.0, "D")],
)
def test_a_jump_of_most_of_the_market_is_no_split(assets, by, found):
    splits = checks().run(moving(*assets, by=by)).table.filter(pl.col("check") == "split_like")
    assert splits["asset"].to_list() == list(found)


def test_peers_that_move_the_other_way_do_not_hide_a_split():
    bars = pl.concat([moving("A", by=0.5).filter(pl.col("asset") == "A"), moving(*"BCD", by=1.25)[60:]])
    assert checks().run(bars).table.filter(pl.col("check") == "split_like")["asset"].to_list() == ["A"]


def test_surveys_of_pieces_add_up_and_tell_a_piece_what_the_market_did():
    bars = moving("A", "B", "C", by=0.5)
    pieces = [bars.filter(pl.col("asset") == name) for name in "ABCD"]
    added = pl.concat(survey(piece) for piece in pieces).group_by("timestamp").sum().sort("timestamp")
    assert added.rows() == survey(bars).rows()
    assert checks().run(pieces[0]).table["check"].to_list() == ["split_like"]
    assert checks().run(pieces[0], added).table.height == 0


@pytest.mark.slow
def test_a_check_does_not_look_ahead():
    """Flags of the first k bars are the same whether or not there are more."""
    spoilt = pl.concat([SPOILT["stale_run"][:60], jump(0.5)[60:]])
    masking = checks(stale_run="mask", split_like="mask", unit_like="mask")
    whole = masking.run(spoilt[:60]).bars["close"]
    for k in range(2, 60):
        assert masking.run(spoilt[:k]).bars["close"].equals(whole[:k], null_equal=True)


def test_sessions_of_new_york_are_the_days_of_the_stocks():
    days = Stocks(table=table()).load()["timestamp"].unique().sort()
    expected = sessions("XNYS", date(2000, 3, 1), date(2013, 3, 1))
    assert expected.to_list() == days.to_list()
    assert date(2001, 9, 12) not in expected.to_list()


def test_a_session_that_no_asset_has_is_a_gap_only_for_the_exchange():
    stocks = Stocks(table=table()).load().filter(pl.col("timestamp") != date(2010, 6, 1))
    assert checks().run(stocks).table.filter(pl.col("check") == "gap").height == 0
    found = checks(calendar="XNYS").run(stocks).table.filter(pl.col("check") == "gap")
    assert set(found["asset"]) == {"AAPL", "GOOG", "IBM", "MSFT"}


def test_bars_on_closed_days_are_found():
    found = checks(calendar="XNYS").run(BARS.head(60)).table.filter(pl.col("check") == "off_session")
    closed = {date(2020, 1, 1), date(2020, 1, 20), date(2020, 2, 17)}
    weekends = {day for day in BARS["timestamp"][:60] if day.weekday() > 4}
    assert found["bars"].to_list() == [len(weekends | closed)]


def test_sessions_of_intraday_bars_keep_their_zone():
    minutes = pl.datetime_range(datetime(2024, 7, 1, 9, 30), datetime(2024, 7, 1, 16), "30m", eager=True)
    stamps = pl.concat([minutes + timedelta(days=day) for day in (0, 2, 4)]).dt.replace_time_zone("America/New_York")
    calendar, open_days = moments(stamps, "XNYS")
    assert open_days.to_list() == [date(2024, 7, day) for day in (1, 2, 3, 5)]
    extra = set(calendar) - set(stamps)
    assert [moment.date() for moment in extra] == [date(2024, 7, 2)]  # 4 July is no session
    assert calendar.dtype.time_zone == "America/New_York"


def test_an_unknown_exchange_is_refused():
    with pytest.raises(DataError, match=r"data\.checks\.calendar is 'XNYC'; .* did you mean XNYS\?"):
        checks(calendar="XNYC").run(BARS)


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ({"duplicates": "warn"}, "data.checks.policies has 'duplicates'; did you mean duplicate?"),
        ({"gap": "drop"}, "data.checks.policies.gap is 'drop'; it must be one of error, warn, mask"),
        (
            {"duplicate": "ignore"},
            "data.checks.policies.duplicate is 'ignore'; it must be one of error, warn, mask, drop",
        ),
    ],
)
def test_wrong_policies_are_refused(policies, message):
    with pytest.raises(ValueError, match=r"data\.checks") as error:
        checks(**policies)
    assert message in str(error.value)


def test_lacking_policies_are_refused():
    with pytest.raises(ValueError, match=r"data\.checks\.policies lacks gap"):
        Checks(
            policies={name: "error" for name in CHECKS if name != "gap"},
            scoring_policies={},
            interval=None,
            calendar=None,
            stale_bars=5,
            split_tolerance=0.03,
            kind="prices",
        )


def test_a_feature_that_is_not_finite_follows_its_policy():
    quiet = with_value(BARS, [ROW], "volume", 0)
    settings = {"features": ["log_return", "volume_change"], "window_size": 4}
    with pytest.raises(DataError, match=r"A 2020-01-21: volume_change of data\.features is -inf \(2 such bars\)"):
        ready(quiet, **settings)
    masked = ready(quiet, checks=checks(feature_not_finite="mask"), max_masked=2, **settings)
    assert masked.train_windows.series.present.logical_not().nonzero().view(-1).tolist() == [0, 20, 21, 60]
    dropped = ready(quiet, checks=checks(feature_not_finite="drop"), max_masked=2, **settings)
    assert dropped.train_windows.series.present is None
    assert len(dropped.train_windows) == len(masked.train_windows) - (4 + 1)  # those that held either bar


def test_summary_names_check_policy_asset_and_count():
    bars = pl.concat([BARS[: ROW - 4], SPOILT["stale_run"][ROW - 4 : 60], BARS[60:]])
    assert describe_findings(checks().run(bars).table) == "stale_run (warn): A 1 (from 2020-01-21)"
    assert describe_findings(checks().run(BARS).table) == "nothing found"


def test_runs_end_with_asset_and_hole():
    asset, moment = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0, 1, 3, 3, 4, 4, 5])
    hole = np.array([False, False, True, False, False, False, False])
    assert unbroken(asset, moment, hole).tolist() == [1, 1, 2, 3, 3, 4, 4]
    assert unbroken(asset, moment, None).tolist() == [1, 1, 1, 2, 2, 3, 3]


def test_soft_checks_of_the_makers_are_those_of_the_configuration():
    text = (Path(__file__).parents[2] / "conf/data/base/windows.yaml").read_text()
    policies = yaml.safe_load(text)["checks"]["policies"]
    assert {name for name, policy in policies.items() if policy == "warn"} == set(SOFT)
    assert set(policies) == set(CHECKS)
