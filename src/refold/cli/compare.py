"""Compare runs: what differs between them, and their metrics, best first, with mean and spread over seeds.

python scripts/compare.py outputs/sweep_2026-01-31_12-00-00_7f3a91      all runs below a folder
python scripts/compare.py outputs/A outputs/B --html compare.html       two runs, and a page with their curves
python scripts/compare.py group=sweep_2026-01-31_12-00-00_7f3a91        the runs of a sweep, wherever they lie
"""

import argparse
import csv
import io
from pathlib import Path
from typing import Any

from refold import program
from refold.errors import ConfigError, DataError
from refold.report.comparison_table import print_comparison
from refold.runs.comparison import Comparison, compare
from refold.runs.directory import write_atomically
from refold.runs.records import find_runs
from refold.runs.spreadsheet import escape_formula


def main() -> None:
    """Read runs, compare them, print the table, and write the files that were asked for.

    Raises:
        RefoldError: there are no runs, none of them can be read, they cannot be compared, or a file cannot be written.
    """
    parser = argparse.ArgumentParser(
        description=program.as_started(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="DIR", help="a run, a folder of runs, or group=NAME")
    parser.add_argument("--metric", help="what to sort by, such as test/r2; the default is checkpoint.monitor")
    parser.add_argument("--each", action="store_true", help="one row per run, in place of the mean over seeds")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write an interactive page")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write one row per run")
    given = parser.parse_args()
    comparison = compare(find_runs(given.runs), given.metric, each=given.each)
    print_comparison(comparison)
    try:
        if given.csv:
            write_csv(given.csv, comparison)
            print(f"table:    {given.csv}")
        if given.html:
            from refold.report.comparison_page import write_comparison

            write_comparison(given.html, comparison, title=f"{len(comparison.runs)} runs by {comparison.metric}")
            print(f"page:     {given.html}")
    except OSError as error:
        raise ConfigError(f"{error.filename}: it cannot be written: {error.strerror}") from None
    if all(run.status == "broken" for run in comparison.runs):
        raise DataError("no run can be read: the rows above say why")


def write_csv(path: Path, comparison: Comparison) -> None:
    """Write one row per run: its directory, status, seed, the settings that differ, and all its metrics.

    Args:
        path: path of the CSV file; an error leaves an earlier one as it was.
        comparison: the runs.

    Raises:
        RefoldError: the file cannot be written.
    """
    names = list(dict.fromkeys(name for run in comparison.runs for name in run.metrics))
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(map(_cell, ["directory", "run", "status", "note", "seed", *comparison.settings, *names]))
    for run in (run for row in comparison.rows for run in row.runs):
        note = "; ".join(filter(None, (run.note, *run.problems)))
        settings = [run.settings.get(key, "") for key in comparison.settings]
        metrics = [run.metrics.get(name, "") for name in names]
        writer.writerow(map(_cell, [run.directory, run.id, run.status, note, run.seed, *settings, *metrics]))
    write_atomically(path, table.getvalue())


def _cell(value: Any) -> Any:
    """Return a cell for CSV: a number unchanged, a text escaped so that no spreadsheet computes it."""
    return value if isinstance(value, (int, float)) or value is None else escape_formula(str(value))
