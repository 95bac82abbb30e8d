"""The tables that end `experiment=price_errors`: what the named verdict finds, beside the unusual one and the rules."""

from pathlib import Path
from typing import Any

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from refold.report.summary import PLANTED
from refold.runs.directory import write_atomically
from refold.studies.scorers_table import errors_frame, mean_and_spread, natural_lines, read_measurements, seeds_in_words

RESULTS = "price_errors.csv"
"""In the directory of a sweep, or of a run on its own: one row per seed, scorer, set and kind, with all metrics."""

TEXT = "price_errors.txt"
"""Beside it: the printed text."""

_WIDTH = 200


def finish(directory: Path) -> None:
    """Print the measurements of the runs in a directory, and write them into price_errors.txt and .csv there.

    Args:
        directory: directory of one run, or of a sweep with a directory for each run.
    """
    measured = [one for one in read_measurements(directory) if "clean" in one]
    if not measured:  # a run that was refused or stopped has said why
        return
    rows = errors_frame(measured)
    write_atomically(directory / RESULTS, rows.write_csv())
    console = Console(width=_WIDTH, highlight=False, record=True)
    for (title,), part in rows.group_by("set", maintain_order=True):
        for metric, words in PLANTED.items():
            console.print(f"{title}: {words}; {seeds_in_words(part)}")
            console.print(_kinds_table(part, metric))
    for line in [*_clean_lines(measured), *natural_lines(measured)]:
        console.print(line)
    text = "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"
    write_atomically(directory / TEXT, text)
    print(f"\nall metrics, seed by seed: {directory / RESULTS}")


def _kinds_table(rows: pl.DataFrame, metric: str) -> Table:
    """Return a table with a row per kind and a column per scorer: there are more kinds than scorers."""
    table = Table(box=SIMPLE_HEAD)
    scorers = rows["scorer"].unique(maintain_order=True).to_list()
    for name in ("", *scorers):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for (kind,), part in rows.group_by("kind", maintain_order=True):
        table.add_row(kind, *(mean_and_spread(part.filter(pl.col("scorer") == name)[metric]) for name in scorers))
    flagged = [rows.filter(pl.col("scorer") == name)["jumps_flagged"].mean() for name in scorers]
    table.add_row("jumps flagged", *(f"{share:.1%}" for share in flagged))
    return table


def _clean_lines(measured: list[dict[str, Any]]) -> list[str]:
    """Report the alarms on clean bars, the highest of all seeds among them, and how long fitting took."""
    rows = pl.DataFrame([row for one in measured for row in one["clean"]])
    lines = ["alarms per asset and year on clean bars: validation, test, highest of a seed; CPU s to fit, to score"]
    width = max(len(name) for name in rows["scorer"])
    for (scorer,), part in rows.group_by("scorer", maintain_order=True):
        highest = max(part["val"].max(), part["test"].max())  # pyright: ignore  numbers, as polars cannot know
        rates = f"{part['val'].mean():.2f}, {part['test'].mean():.2f}, at most {highest:.2f}"
        times = f"{part['fit_cpu_s'].median():.0f} s, {part['score_cpu_s'].median():.2f} s"
        lines.append(f"  {scorer:<{width}}  {rates};  {times}")
    return lines
