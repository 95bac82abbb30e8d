"""Forty and more ways to spoil a file. spoilt.md says what becomes of each, and test_spoilt.py that it does."""

from dataclasses import dataclass, field
from datetime import date, timedelta

import polars as pl

FIRST, DAYS = date(2020, 1, 1), 40
HEADER = "date,symbol,open,high,low,close,volume"


def _price(day: int) -> float:
    return 100 + 5 * ((day * 7) % 11) / 11 + day / 10


def _row(day: int, symbol: str = "A") -> str:
    close, open_ = _price(day), _price(day - 1)
    high, low = max(close, open_) + 1, min(close, open_) - 1
    return (
        f"{FIRST + timedelta(days=day)},{symbol},{open_:.2f},{high:.2f},{low:.2f},{close:.2f},{1000 + 37 * (day % 5)}"
    )


SOUND = [HEADER, *(_row(day) for day in range(DAYS))]
ROW = 11  # the line that is spoilt: the tenth day, 2020-01-11


def cell(column: str, value: str, *lines: int) -> list[str]:
    """The sound file with another value in a column of some lines."""
    spoilt, place = list(SOUND), HEADER.split(",").index(column)
    for line in lines or (ROW,):
        cells = spoilt[line].split(",")
        cells[place] = value
        spoilt[line] = ",".join(cells)
    return spoilt


def scaled(factor: float, *lines: int) -> list[str]:
    """The sound file with all prices of some lines times a factor."""
    spoilt = list(SOUND)
    for line in lines:
        cells = spoilt[line].split(",")
        spoilt[line] = ",".join([*cells[:2], *(f"{float(price) * factor:.4f}" for price in cells[2:6]), cells[6]])
    return spoilt


def without(*lines: int) -> list[str]:
    return [line for number, line in enumerate(SOUND) if number not in lines]


def renamed(old: str, new: str) -> list[str]:
    return [SOUND[0].replace(old, new), *SOUND[1:]]


def column_dropped(*columns: str) -> list[str]:
    kept = [number for number, name in enumerate(HEADER.split(",")) if name not in columns]
    return [",".join(line.split(",")[number] for number in kept) for line in SOUND]


def wide(**cells: str) -> list[str]:
    """A sound wide file of closes of A and B, with another value for A or B on the tenth day."""
    lines = ["date,A,B"]
    for day in range(DAYS):
        values = {"A": f"{_price(day):.2f}", "B": f"{_price(day + 3):.2f}", **(cells if day == ROW - 1 else {})}
        lines.append(f"{FIRST + timedelta(days=day)},{values['A']},{values['B']}")
    return lines


def stale() -> list[str]:
    """The sound file with all prices of six bars equal."""
    spoilt = list(SOUND)
    for line in range(ROW, ROW + 6):
        cells = spoilt[line].split(",")
        spoilt[line] = ",".join([*cells[:2], *["102.00"] * 4, cells[6]])
    return spoilt


def frozen() -> list[str]:
    """The sound file with all values of six bars equal."""
    return [
        *SOUND[:ROW],
        *[",".join(SOUND[line].split(",")[:2] + SOUND[ROW].split(",")[2:]) for line in range(ROW, ROW + 6)],
        *SOUND[ROW + 6 :],
    ]


def emptied(column: str) -> list[str]:
    """The sound file without any value in a column."""
    place = SOUND[0].split(",").index(column)
    rows = [line.split(",") for line in SOUND]
    return [SOUND[0], *(",".join([*row[:place], "", *row[place + 1 :]]) for row in rows[1:])]


def _at(line: str) -> str:
    """A line of the sound file at midnight of its day."""
    day, rest = line.split(",", 1)
    return f"{day} 00:00:00,{rest}"


def _after(lines: list[str]) -> list[str]:
    """Lines of minutes as those of the day after the sound file, with all its columns."""
    cells = [line.split(",") for line in lines[1:]]
    return [f"2020-02-10 {at.split()[1]},{name},{close},{close},{close},{close},1" for at, name, close in cells]


def minutes(*lacking: int, days: int = 0, off: int | None = None) -> list[str]:
    """A file of bars every five minutes, without those of some numbers, and days of another asset or of the same."""
    lines = ["date,symbol,close"]
    for number in range(100):
        second = 17 if number == off else 0
        if number not in lacking:
            lines.append(f"2020-01-01 {number // 12:02}:{number % 12 * 5:02}:{second:02},A,{_price(number):.2f}")
    return lines + [f"{FIRST + timedelta(days=day)} 00:00:00,B,{_price(day):.2f}" for day in range(days)]


@dataclass(frozen=True)
class Case:
    """A spoilt file, and the settings it is read with. parquet: columns to replace in the same table as Parquet."""

    name: str
    lines: list[str]
    policies: dict[str, str] = field(default_factory=dict)
    table: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    source: dict = field(default_factory=dict)
    parquet: dict[str, pl.Expr] | None = None


def semicolons(lines: list[str], decimal: str = ".") -> list[str]:
    """The file with semicolons between cells, and another mark before fractions."""
    return [line.replace(",", ";").replace(".", decimal) for line in lines]


TWO_WAYS = ["date;A", *(f"{FIRST + timedelta(days=day)};1,{100 + day * day % 97}" for day in range(DAYS))]
DATES_AS_NUMBERS = [SOUND[0], *(line.replace("-", "") for line in SOUND[1:])]


def labelled(value: str) -> list[str]:
    """The sound file with a column of labels, 0 but for the tenth day."""
    return [f"{HEADER},anomaly", *(f"{line},{value if n == ROW - 1 else 0}" for n, line in enumerate(SOUND[1:]))]


LABELS = {"columns": {"label": "anomaly"}}

AMERICAN = [SOUND[0], *(f"{line[5:7]}/{line[8:10]}/{line[:4]}{line[10:]}" for line in SOUND[1:])]
ALL_AT_ONCE = semicolons(AMERICAN, ",")

SERIES = {"kind": "series"}
CHOSEN, OPEN = {"features": None}, {"features": ["open"]}
CONSTANTS = ["date,x,y", *(f"{FIRST + timedelta(days=day)},1,2" for day in range(DAYS))]
BY_TIME, BACKWARDS = "OVER (ORDER BY timestamp)", "OVER (ORDER BY timestamp DESC)"


def expression(text: str, lookback: int = 1) -> dict:
    return {"features": [{"name": "own", "expression": text, "lookback": lookback}]}


CASES = [
    Case("sound", SOUND),
    Case("empty file", []),
    Case("header alone", SOUND[:1]),
    Case("one row", SOUND[:2]),
    Case("two rows", SOUND[:3]),
    Case("no header", SOUND[1:]),
    Case("no date column", column_dropped("date")),
    Case("a date column of another name", renamed("date", "day")),
    Case("the same, named", renamed("date", "day"), table={"columns": {"timestamp": "day"}}),
    Case("two date columns", renamed("symbol", "Time")),
    Case("dates alone", column_dropped("symbol", "open", "high", "low", "close", "volume")),
    Case("no prices", column_dropped("open", "high", "low", "close", "volume")),
    Case("no close", column_dropped("close")),
    Case("a named column that is not there", SOUND, table={"columns": {"close": "last"}}),
    Case("adjusted without an adjusted close", SOUND, table={"adjusted": True}),
    Case("a text for a price", cell("close", "n/a")),
    Case("a comma for a point", cell("close", '"100,5"')),
    Case("an American date", cell("date", "01/11/2020")),
    Case("American dates", AMERICAN),
    Case("the same, with their form", AMERICAN, table={"timestamp_format": "%m/%d/%Y"}),
    Case("a day that does not exist", cell("date", "2020-02-30")),
    Case("a date and time among dates", cell("date", "2020-01-11 16:00")),
    Case("another date format than the one given", SOUND, table={"timestamp_format": "%d.%m.%Y"}),
    Case("another separator", semicolons(SOUND)),
    Case("another separator than the one given", semicolons(SOUND), source={"separator": ","}),
    Case("another separator, American dates and decimal commas", ALL_AT_ONCE, source={"separator": ","}),
    Case("the same, without a separator given", ALL_AT_ONCE, source={"decimal": "."}),
    Case("a separator that is not found", [line.replace(",", "^") for line in SOUND]),
    Case("the same, typed", [line.replace(",", "^") for line in SOUND], source={"separator": "^"}),
    Case("a separator of two characters", SOUND, source={"separator": "::"}),
    Case("a separator of two bytes", SOUND, source={"separator": "§"}),
    Case("no separator", SOUND, source={"separator": ""}),
    Case("tabs, as they are typed", [line.replace(",", "\t") for line in SOUND], source={"separator": "\\t"}),
    Case("decimal commas", semicolons(SOUND, ",")),
    Case("decimal commas and points", [*semicolons(SOUND[:ROW], ","), *semicolons(SOUND[ROW:])]),
    Case("thousands with commas", cell("volume", '"1,234,567"')),
    Case("numbers that can be read in two ways", TWO_WAYS),
    Case("the same, with the decimal mark", TWO_WAYS, source={"decimal": ","}),
    Case("thousands that are decimals", SOUND, source={"decimal": ",", "thousands": ","}),
    Case("a column twice", renamed("open", "close")),
    Case("a column without a name", [SOUND[0] + ",", *(line + ",1" for line in SOUND[1:])]),
    Case("an index without a name", ["," + SOUND[0], *(f"{number},{line}" for number, line in enumerate(SOUND[1:]))]),
    Case("dates as numbers", DATES_AS_NUMBERS),
    Case("a day that does not exist, as a number", [*DATES_AS_NUMBERS[:-1], "20200230,A,1,1,1,1,1"]),
    Case("a number of seconds among milliseconds", ["time,A", "1577836800000,1", "1577923200,1"]),
    Case("more than microseconds in one row", ["time,A", "2020-01-01 00:00:00.0,1", "2020-01-02 00:00:00.000000001,1"]),
    Case("milliseconds for dates in Parquet", SOUND, parquet={"date": pl.col("date").dt.epoch("ms")}),
    Case("lists in Parquet", SOUND, parquet={"close": pl.concat_list("close")}),
    Case("lengths of time for dates in Parquet", SOUND, parquet={"date": pl.col("date") - pl.date(2020, 1, 1)}),
    Case("binary symbols in Parquet", SOUND, parquet={"symbol": pl.col("symbol").cast(pl.Binary)}),
    Case("a cell too many", [*SOUND[:ROW], SOUND[ROW] + ",1,2", *SOUND[ROW + 1 :]]),
    Case("an empty date", cell("date", "")),
    Case("an empty date, dropped", cell("date", ""), {"missing_timestamp": "drop"}),
    Case("an empty symbol", cell("symbol", "")),
    Case("a symbol of blanks", cell("symbol", "  ")),
    Case("an empty symbol in Parquet", SOUND, parquet={"symbol": pl.col("symbol").str.replace("A", "")}),
    Case("two rows the wrong way round", [*SOUND[:ROW], SOUND[ROW + 1], SOUND[ROW], *SOUND[ROW + 2 :]]),
    Case(
        "the same, not allowed",
        [*SOUND[:ROW], SOUND[ROW + 1], SOUND[ROW], *SOUND[ROW + 2 :]],
        {"out_of_order": "error"},
    ),
    Case("a row twice", [*SOUND, SOUND[ROW]]),
    Case("a row twice, dropped", [*SOUND, SOUND[ROW]], {"duplicate": "drop"}),
    Case("a row twice, masked", [*SOUND, SOUND[ROW]], {"duplicate": "mask"}),
    Case("an empty price", cell("close", "")),
    Case("an empty price, masked", cell("close", ""), {"missing_value": "mask"}),
    Case("an empty price, dropped", cell("close", ""), {"missing_value": "drop"}),
    Case("an empty price, warned of", cell("close", ""), {"missing_value": "warn"}),
    Case("NaN", cell("close", "NaN")),
    Case("NaN, warned of", cell("close", "NaN"), {"not_finite": "warn"}),
    Case("NaN, masked", cell("close", "NaN"), {"not_finite": "mask"}),
    Case("infinity", cell("high", "inf")),
    Case("a price of 0", cell("low", "0")),
    Case("a price below 0", cell("close", "-100")),
    Case("a price below 0, warned of", cell("close", "-100"), {"non_positive": "warn", "broken_bar": "warn"}),
    Case("a volume below 0", cell("volume", "-1")),
    Case("low above open", cell("low", "103.9")),
    Case("high below close", cell("high", "90")),
    Case("high below close, dropped", cell("high", "90"), {"broken_bar": "drop"}),
    Case("a close that stands still", stale()),
    Case("a close that stands still, masked", stale(), {"stale_run": "mask"}),
    Case("an unadjusted split", scaled(0.5, *range(20, 41))),
    Case("an unadjusted split, not allowed", scaled(0.5, *range(20, 41)), {"split_like": "error"}),
    Case("a bar in cents", scaled(100, ROW)),
    Case("a unit that changes in the middle of a file", scaled(100, *range(20, 41))),
    Case("a bar in cents, masked", scaled(100, ROW), {"unit_like": "mask"}),
    Case("bars on days without a session", SOUND, settings={"calendar": "XNYS"}),
    Case("an exchange that is not known", SOUND, settings={"calendar": "NASDAQ"}),
    Case("a missing day", without(ROW)),
    Case("a missing session", without(10), settings={"calendar": "XNYS"}),
    Case("a missing session, not allowed", without(10), {"gap": "error"}, settings={"calendar": "XNYS"}),
    Case("an interval that is none", SOUND, settings={"interval": "daily"}),
    Case("minutes with a hole", minutes(*range(20, 40))),
    Case("minutes with a hole, masked", minutes(20, 21), {"gap": "mask"}),
    Case("minutes with a hole, not expected", minutes(*range(20, 40)), settings={"interval": "none"}),
    Case("minutes with a hole, not allowed", minutes(*range(20, 40)), {"gap": "error"}),
    Case("a bar between two minutes", minutes(off=30)),
    Case("a bar between two minutes, masked", minutes(off=30), {"off_grid": "mask"}),
    Case("minutes of one asset, days of another", minutes(days=40)),
    Case("the same, let pass", minutes(days=40), {"mixed_interval": "warn"}),
    Case("days that become minutes", [SOUND[0], *(_at(line) for line in SOUND[1:]), *_after(minutes())]),
    Case("minutes held to days", minutes(), settings={"interval": "1d"}),
    Case("a wide file", wide()),
    Case("a wide file with a text", wide(A="one")),
    Case("a wide file with NaN", wide(B="nan")),
    Case("a hole in one asset", wide(A="")),
    Case("a hole in one asset, masked", wide(A=""), {"gap": "mask"}),
    Case("a hole in one asset, not allowed", wide(A=""), {"gap": "error"}),
    Case("a hole in one asset of a panel", wide(A=""), {"gap": "mask"}, settings={"layout": "panel"}),
    Case("volume of 0 in a log", cell("volume", "0"), settings={"features": ["volume_change"]}),
    Case(
        "volume of 0 in a log, masked",
        cell("volume", "0"),
        {"feature_not_finite": "mask"},
        settings={"features": ["volume_change"]},
    ),
    Case("a price that never moves", cell("close", "102.00", *range(1, 41)), {"broken_bar": "warn"}),
    Case("a feature that needs more columns", column_dropped("high"), settings={"features": ["parkinson_range"]}),
    Case("a window longer than the file", SOUND, settings={"window_size": 100}),
    Case("a look-back of 20 digits", SOUND, settings={"features": ["relative_volume_99999999999999999999"]}),
    Case("a cache without a name", SOUND, settings={"cache": ""}),
    Case("a look-back longer than the file", SOUND, settings={"features": ["trailing_volatility_60"]}),
    Case("a part without windows", SOUND[:20]),
    Case("an asset that is not there", SOUND, table={"assets": ["B"]}),
    Case("any numbers", cell("close", "-100"), table=SERIES, settings=CHOSEN),
    Case("any numbers, without a time", column_dropped("date", "symbol"), table=SERIES, settings=CHOSEN),
    Case("any numbers, without a time, by an id", column_dropped("date"), table=SERIES, settings=CHOSEN),
    Case("any numbers, a text among them", cell("close", "n/a"), table=SERIES, settings=CHOSEN),
    Case("any numbers, an empty cell", cell("close", ""), table=SERIES, settings=CHOSEN),
    Case("any numbers, an empty cell in a column not used", cell("close", ""), table=SERIES, settings=OPEN),
    Case("any numbers, infinity", cell("high", "inf"), table=SERIES, settings=CHOSEN),
    Case("any numbers, four of five stand still", stale(), table=SERIES, settings=CHOSEN),
    Case("any numbers, all stand still", frozen(), table=SERIES, settings=CHOSEN),
    Case("any numbers, an empty column", emptied("low"), table=SERIES, settings=CHOSEN),
    Case("no numbers", column_dropped("open", "high", "low", "close", "volume"), table=SERIES, settings=CHOSEN),
    Case("numbers that are all constant", CONSTANTS, table=SERIES, settings=CHOSEN),
    Case("prices adjusted as a series", SOUND, table={**SERIES, "adjusted": True}, settings=CHOSEN),
    Case("values that are not there", SOUND, table={**SERIES, "values": ["last"]}, settings=CHOSEN),
    Case("a time as a value", SOUND, table={**SERIES, "columns": {"timestamp": "close"}}, settings=CHOSEN),
    Case("an expression that does not parse", SOUND, table=SERIES, settings=expression("close -")),
    Case("an expression of an absent column", SOUND, table=SERIES, settings=expression("close - future")),
    Case("an expression over a whole column", SOUND, table=SERIES, settings=expression("close - AVG(close)")),
    Case("an expression that leads", SOUND, table=SERIES, settings=expression(f"LEAD(close) {BY_TIME}")),
    Case("an expression that looks ahead", SOUND, table=SERIES, settings=expression(f"LAG(close) {BACKWARDS}")),
    Case("an expression beyond its look-back", SOUND, table=SERIES, settings=expression(f"LAG(close) {BY_TIME}")),
    Case("an expression with its look-back", SOUND, table=SERIES, settings=expression(f"LAG(close) {BY_TIME}", 2)),
    Case("a logarithm of a negative number", cell("close", "-1"), table=SERIES, settings={"features": ["log(close)"]}),
    Case("dates that are not there", SOUND, table={"start": "2030-01-01"}),
    Case("labels", labelled("1"), table=LABELS),
    Case("labels that are true, false, 1.0 and 0", labelled("True"), table=LABELS),
    Case("a label of 2", labelled("2"), table=LABELS),
    Case("a label of -1", labelled("-1"), table=LABELS),
    Case("a word for a label", labelled("anomalous"), table=LABELS),
    Case("an empty label", labelled(""), table=LABELS),
    Case("a column of labels that is not there", SOUND, table=LABELS),
    Case("prices for labels", SOUND, table={"columns": {"label": "close"}}),
    Case("dates for labels in Parquet", labelled("1"), table=LABELS, parquet={"anomaly": pl.col("date")}),
]
