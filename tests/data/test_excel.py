"""Spreadsheets: days and times as a spreadsheet has them, sheets, and what cannot be read."""

import sys
from datetime import date, datetime

import polars as pl
import pytest

from refold.data.sources import Excel
from refold.errors import DataError
from tests.data.makers import table
from tests.data.spreadsheets import write_xlsx

HEADER = ["Date", "Symbol", "Close", None]
ROWS = [HEADER, [date(2024, 1, 2), "X", 1.5, "a"], [date(2024, 1, 3), "X", 2, "b"]]
BARS = [(date(2024, 1, 2), "X", 1.5), (date(2024, 1, 3), "X", 2.0)]


def excel(path, sheet: str | None = None, **others) -> Excel:
    return Excel(path=str(path), sheet=sheet, table=table(**others))


def read(tmp_path, sheets: dict, sheet: str | None = None, merged: str | None = None) -> pl.DataFrame:
    return excel(write_xlsx(tmp_path / "prices.xlsx", sheets, merged), sheet).load()


def test_days_are_days_and_a_column_without_a_name_is_left_out(tmp_path):
    assert read(tmp_path, {"Prices": ROWS}).rows() == BARS


def test_times_are_times(tmp_path):
    rows = [["time", "close"], [datetime(2024, 1, 2, 15, 30), 1.5], [datetime(2024, 1, 2, 15, 31), 2.5]]
    bars = read(tmp_path, {"Prices": rows})
    assert bars.rows()[1] == (datetime(2024, 1, 2, 15, 31), "prices", 2.5)
    assert bars["timestamp"].dtype == pl.Datetime("us")


def test_a_table_below_empty_rows_and_above_formatted_ones(tmp_path):
    assert read(tmp_path, {"Prices": [[], [], *ROWS, [], [None, None]]}).rows() == BARS


def test_the_only_sheet_with_cells_is_read_and_others_are_named(tmp_path):
    assert read(tmp_path, {"Empty": [], "Prices": ROWS}).rows() == BARS
    assert read(tmp_path, {"Notes": [["x"]], "P & L": ROWS}, sheet="P & L").rows() == BARS


@pytest.mark.parametrize(
    ("sheets", "sheet", "merged", "message"),
    [
        ({"A": ROWS, "B": ROWS}, None, None, r"has 2 sheets with cells, 'A', 'B'; name one with data\.source\.sheet"),
        ({"A": ROWS}, "B", None, r"data\.source\.sheet is 'B'; .* has 'A'"),
        ({"A": ROWS}, None, "B2:B3", "sheet 'A' has merged cells, B2:B3; unmerge them"),
        ({"A": [["Date", "Close", "Close"], ROWS[1][:3]]}, None, None, "has the column 'Close' 2 times"),
        ({"A": []}, None, None, "sheet 'A' is empty"),
        ({"A": [HEADER]}, None, None, "has no rows"),
        (
            {"A": [*ROWS, [date(2024, 1, 4), "X", "twelve"]]},
            None,
            None,
            "row 4, column 'Close': 'twelve' is not a number",
        ),
    ],
)
def test_spoilt_sheets_are_named(tmp_path, sheets, sheet, merged, message):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, sheets, sheet, merged)
    assert "prices.xlsx" in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"date,close\n2024-01-02,1\n", b"PK\x03\x04 and no more"])
def test_a_file_that_is_no_spreadsheet_is_named(tmp_path, content):
    path = tmp_path / "prices.xlsx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"data.path is .*(no such file|cannot be read as a spreadsheet)"):
        excel(path).load()


def test_a_reader_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    with pytest.raises(DataError, match=r'needs fastexcel; install it with: pip install "refold\[excel\]"'):
        excel(write_xlsx(tmp_path / "prices.xlsx", {"A": ROWS})).load()
