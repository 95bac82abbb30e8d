"""The table of a comparison of runs, in a terminal or a file."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from refold.runs.comparison import Comparison, Row, best_rows, smaller_is_better


def table_of(comparison: Comparison, metrics: Sequence[str], title: str | None = None) -> Table:
    """The table for a terminal: the varying settings, some metrics, the best of each marked with a star."""
    table = Table(title=title)
    for name in short_names(comparison.settings):
        table.add_column(name, overflow="fold")
    table.add_column("run", overflow="fold")
    for name in metrics:
        table.add_column(name.replace("reconstruction_", "").replace("_per_", "/"), justify="right", no_wrap=True)
    winners = best_rows(comparison)
    for number, row in enumerate(comparison.rows):
        cells = [Text(f"{value:g}" if isinstance(value, float) else str(value)) for value in row.settings]
        cells.append(Text(label_of(row)))
        for name in metrics:
            best = winners[name] == number
            cells.append(Text(f"{cell_text(row, name)} {'*' if best else ' '}", style="bold" if best else ""))
        table.add_row(*cells, style=None if row.finished else "dim")
    return table


def short_names(keys: Sequence[str]) -> list[str]:
    """The last part of each dotted key where no other key ends in it, else the whole key."""
    ends = [key.rpartition(".")[2] for key in keys]
    return [end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)]


def label_of(row: Row) -> str:
    """How many seeds a row is of, or its one run, with its status if that is not finished."""
    run = row.runs[0]
    if len(row.runs) > 1:
        return f"{len(row.runs)} {'seeds' if len({run.seed for run in row.runs}) == len(row.runs) else 'runs'}"
    return run.id if row.finished else ": ".join(filter(None, (f"{run.id}, {run.status}", run.note)))


def cell_text(row: Row, metric: str) -> str:
    """Mean, and spread if there is one; nothing without a value."""
    value, spread = row.mean(metric), row.spread(metric)
    digits = ",.0f" if abs(value) >= 100 else ".4f"
    if math.isnan(value):
        return "nan" if row.values(metric) else ""
    return f"{value:{digits}}" + ("" if math.isnan(spread) else f" ± {spread:{digits}}")


def print_comparison(comparison: Comparison, console: Console | None = None, title: str | None = None) -> None:
    """Print the table, what the star means, and what a reader must know."""
    console = console or Console(highlight=False)
    metrics = list(comparison.metrics)
    width = _width(console, table := table_of(comparison, metrics, title))
    while console.is_terminal and width > console.width and len(metrics) > 2:
        metrics.pop()
        width = _width(console, table := table_of(comparison, metrics, title))
    if not console.is_terminal:  # nothing is folded or left out of a file
        console.width = max(console.width, width)
    console.print(table)
    spread = ", ± the standard deviation over seeds" if any(len(row.runs) > 1 for row in comparison.rows) else ""
    direction = "smallest" if smaller_is_better(comparison.metric) else "largest"
    console.print(f"{direction} {comparison.metric} first; * is the best of its column{spread}")
    for note in comparison.notes:
        console.print(f"note: {note}")
    if comparison.rows and comparison.rows[0].finished:
        sign = 1 if smaller_is_better(comparison.metric) else -1
        best = min(comparison.rows[0].runs, key=lambda run: sign * run.metrics[comparison.metric])
        console.print(Text(f"best run: {best.directory}"))


def _width(console: Console, table: Table) -> int:
    """Columns of text that a table takes when nothing in it is folded."""
    return Measurement.get(console, console.options.update(width=10_000), table).maximum
