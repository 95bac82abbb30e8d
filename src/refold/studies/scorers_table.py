"""The table that ends `experiment=scorers`: how well each scorer finds each kind of error, over all seeds."""

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from refold.report.summary import PLANTED
from refold.runs.directory import RESULT, write_atomically
from refold.studies.scorers import RULES_ALONE, RULES_AND_MODEL

RESULTS = "scorers.csv"
"""In the directory of a sweep, or of a run on its own: one row per seed, scorer and kind, with all metrics."""

TEXT = "scorers.txt"
"""Beside it: the printed text. `python -m refold.studies.scorers_table DIRECTORY PAGE` puts it into a page."""

_WIDTH = 128


def read_measurements(directory: Path) -> list[dict[str, Any]]:
    """Read what the runs in a directory measured of planted errors; runs that measured nothing are left out.

    Args:
        directory: directory of one run, or of a sweep with a directory for each run.
    """
    paths = [directory / RESULT, *sorted(directory.glob(f"*/{RESULT}"))]
    found = [json.loads(path.read_text()) for path in paths if path.exists()]
    return [result["price_errors"] for result in found if "price_errors" in result]


def finish(directory: Path) -> None:
    """Print the measurements of the runs in a directory, and write them into scorers.txt and .csv there.

    Args:
        directory: directory of one run, or of a sweep with a directory for each run.
    """
    measured = read_measurements(directory)
    if not measured:  # a run that was refused or stopped has said why
        return
    rows = errors_frame(measured)
    write_atomically(directory / RESULTS, rows.write_csv())
    console = Console(width=_WIDTH, highlight=False, record=True)
    for metric, title in PLANTED.items():
        console.print(f"{title}; {seeds_in_words(rows)}")
        console.print(metric_table(rows, metric))
    for line in [*_gain_lines(rows), "", *_checks_lines(measured), *natural_lines(measured)]:
        console.print(line)
    text = "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"
    write_atomically(directory / TEXT, text)
    print(f"\nall metrics, seed by seed: {directory / RESULTS}")


def into_page(directory: Path, page: Path) -> None:
    """Write the text of a sweep between the marks of a page of documentation.

    Args:
        directory: directory of the sweep, with its scorers.txt.
        page: Markdown with the two marks.
    """
    before, begin, rest = page.read_text().partition("<!-- table: begin -->\n")
    _, end, after = rest.partition("<!-- table: end -->")
    lines = (f"    {line}".rstrip() for line in (directory / TEXT).read_text().strip("\n").splitlines())
    write_atomically(page, before + begin + "\n".join(lines) + "\n" + end + after)


def errors_frame(measured: list[dict[str, Any]]) -> pl.DataFrame:
    """Make a table with a row per seed, scorer and kind.

    Args:
        measured: one mapping per seed: the values of `CompareScorers.run`.
    """
    rows = [{"seed": one["seed"], **row} for one in measured for row in one["errors"]]
    return pl.DataFrame(rows, infer_schema_length=None)


def seeds_in_words(rows: pl.DataFrame) -> str:
    """Say over how many seeds the numbers of a table are.

    Args:
        rows: as `errors_frame` returns them.
    """
    seeds = rows["seed"].n_unique()
    return f"{seeds} seeds, mean and standard deviation" if seeds > 1 else "one seed"


def metric_table(rows: pl.DataFrame, metric: str) -> Table:
    """Return a table of a metric: a row per scorer, a column per kind, mean and standard deviation over the seeds.

    Args:
        rows: as `errors_frame` makes them.
        metric: name of a column.
    """
    table = Table(box=SIMPLE_HEAD)
    kinds = rows["kind"].unique(maintain_order=True).to_list()
    for name in ("", *kinds, "jumps flagged"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for (scorer,), part in rows.group_by("scorer", maintain_order=True):
        cells = [mean_and_spread(part.filter(pl.col("kind") == kind)[metric]) for kind in kinds]
        table.add_row(scorer, *cells, f"{part['jumps_flagged'].mean():.1%}")
    return table


def mean_and_spread(values: pl.Series) -> str:
    """Return mean and standard deviation of some values in words.

    Args:
        values: one per seed; null where there is none.
    """
    values = values.drop_nulls()
    if not len(values):
        return "-"
    return f"{values.mean():.2f}" + (f" ±{values.std():.2f}" if len(values) > 1 else "")


def _gain_lines(rows: pl.DataFrame) -> list[str]:
    """Say what the model adds to the rules, as mean over the seeds; it may be nothing."""
    lines = []
    for metric, title in PLANTED.items():
        wide = rows.pivot(on="scorer", index=["seed", "kind"], values=metric)
        for (kind,), part in wide.group_by("kind", maintain_order=True):
            gain = part[RULES_AND_MODEL] - part[RULES_ALONE]
            spread = f" ±{gain.std():.3f}" if len(gain) > 1 else ""
            more = f", more in {(gain > 0).sum()} of {len(gain)} seeds"
            lines.append(f"  {title.partition(',')[0]}, {kind}: {gain.mean():+.3f}{spread}{more}")
    return ["what the model adds to the four rules:", *lines]


def _checks_lines(measured: list[dict[str, Any]]) -> list[str]:
    kinds = measured[0]["checks"]
    shares = {kind: sum(one["checks"][kind] for one in measured) / len(measured) for kind in kinds}
    if not shares:
        return []
    listed = ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items())
    return [f"found by the checks of the data, before any scorer: {listed}"]


def natural_lines(measured: list[dict[str, Any]]) -> list[str]:
    """Report the natural test, a line per scorer: counts over all seeds.

    Args:
        measured: one mapping per seed, with rows under "natural".
    """
    rows = pl.DataFrame([row for one in measured for row in one["natural"]])
    if rows.is_empty():
        return []
    lines = [
        "",
        f"real splits and moves, over {len(measured)} seeds: splits flagged, of them named split; moves flagged,",
        "of them called an error; other flags per 1,000 bars",
    ]
    width = max(len(name) for name in rows["scorer"])
    for (scorer,), part in rows.group_by("scorer", maintain_order=True):
        total = part.select(pl.exclude("scorer", "others_per_1000_bars").sum()).row(0, named=True)
        splits = f"{total['splits_flagged']} of {total['splits']}, {total['splits_named']} named"
        moves = f"{total['moves_flagged']} of {total['moves']}, {total['moves_called_error']} called an error"
        lines.append(f"  {scorer:<{width}}  {splits};  {moves};  {part['others_per_1000_bars'].mean():.1f}")
    return lines


if __name__ == "__main__":
    into_page(*map(Path, sys.argv[1:]))
