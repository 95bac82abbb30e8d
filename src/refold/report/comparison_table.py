"""The table of a comparison of runs, in a terminal or a file."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from refold.runs.comparison import Comparison, Row, best_rows, meaning_of_spread, smaller_is_better, twins
from refold.runs.records import RunRecord

MOST_PROBLEMS = 3
"""Problems of a run that its row shows."""


def comparison_table(comparison: Comparison, metrics: Sequence[str], title: str | None = None) -> Table:
    """Return the table for a terminal: the settings that differ, and some metrics with a star at the best of each.

    Rows are numbered where one has the runs of another, which it names.

    Args:
        comparison: the runs.
        metrics: those of its metrics to show.
        title: title of the table.
    """
    table = Table(title=None if title is None else Text(title))
    same = twins(comparison.rows)
    for name in [*(["#"] if same else []), *short_names(comparison.settings), "run"]:
        table.add_column(Text(name), overflow="fold")
    for name in metrics:
        short = name.replace("reconstruction_", "").replace("_per_", "/")
        table.add_column(Text(short), justify="right", no_wrap=True)
    winners = best_rows(comparison)
    for number, row in enumerate(comparison.rows):
        cells = [Text(str(number + 1))] if same else []
        cells += [Text(f"{value:g}" if isinstance(value, float) else str(value)) for value in row.settings]
        cells.append(Text(f"as #{same[number] + 1}" if number in same else label_of(row)))
        for name in metrics:
            best = winners[name] == number
            cells.append(Text(f"{cell_text(row, name)} {'*' if best else ' '}", style="bold" if best else ""))
        table.add_row(*cells, style=None if row.finished else "dim")
    return table


def short_names(keys: Sequence[str]) -> list[str]:
    """Return the last part of each dotted key where no other key ends in it, else the full key."""
    ends = [key.rpartition(".")[2] for key in keys]
    return [end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)]


def label_of(row: Row) -> str:
    """Return the label of a row: its number of seeds, or its one run and status, then any problems."""
    run = row.runs[0]
    if len(row.runs) > 1:
        name = f"{len(row.runs)} {'seeds' if row.of_seeds else 'runs'}"
    else:
        name = run.id if row.finished else f"{run.id}, {run.status}"
    return ": ".join(filter(None, (name, run.note, problems_text(run))))


def problems_text(run: RunRecord) -> str:
    """Describe the problems of a run's result in one line; return an empty text if there are none."""
    more = len(run.problems) - MOST_PROBLEMS
    return "; ".join([*run.problems[:MOST_PROBLEMS], *([f"and {more} more"] if more > 0 else [])])


def cell_text(row: Row, metric: str) -> str:
    """Return mean and spread of a metric as text; nothing where no run of the row has it."""
    value, spread = row.mean(metric), row.spread(metric)
    if math.isnan(value):
        return ""
    digits = ",.0f" if abs(value) >= 100 else ".4f"
    return f"{value:{digits}}" + ("" if math.isnan(spread) else f" ± {spread:{digits}}")


def print_comparison(comparison: Comparison, console: Console | None = None, title: str | None = None) -> None:
    """Print the table, the meaning of its stars, notes about the comparison, and the best run.

    Args:
        comparison: the runs.
        console: to print on; None for the standard output.
        title: title of the table.
    """
    console = console or Console(highlight=False)
    metrics = list(comparison.metrics)
    table = comparison_table(comparison, metrics, title)
    while console.is_terminal and _width(console, table) > console.width and len(metrics) > 2:
        metrics.pop()
        table = comparison_table(comparison, metrics, title)
    if not console.is_terminal:  # nothing is folded or left out of a file
        console.width = max(console.width, _width(console, table))
    console.print(table)
    spread = f", {meaning}" if (meaning := meaning_of_spread(comparison)) else ""
    direction = "smallest" if smaller_is_better(comparison.metric) else "largest"
    console.print(Text(f"{direction} {comparison.metric} first; * is the best of its column{spread}"))
    for note in comparison.notes:
        console.print(Text(f"note: {note}"))
    first = comparison.rows[0].runs if comparison.rows and comparison.rows[0].finished else ()
    ranked = [run for run in first if comparison.metric in run.metrics]
    if ranked:
        sign = 1 if smaller_is_better(comparison.metric) else -1
        best = min(ranked, key=lambda run: sign * run.metrics[comparison.metric])
        console.print(Text(f"best run: {best.directory}"))


def _width(console: Console, table: Table) -> int:
    """Measure the width of a table in characters when no cell is folded."""
    return Measurement.get(console, console.options.update(width=10_000), table).maximum
