"""The result of `experiment=decoder_study`: a figure, a table, and which option won by how much against the spread.

    python scripts/plot_study.py outputs/sweep_2026-01-31_12-00-00_7f3a91 README.md docs/decoder_study.png

The command writes the table and the verdicts into the page, between its two markers.
"""

from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from refold.errors import ConfigError
from refold.runs.directory import write_atomically
from refold.runs.records import RunRecord, find_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC, COLUMNS = "test/r2", ("test/r2", "val/r2", "val/exposure_gap")
GROUPS = ("decoder", "teacher_forcing", "layers")
BEGIN, END = "<!-- decoder study: begin -->", "<!-- decoder study: end -->"

Cells = dict[tuple[str, ...], list[RunRecord]]
"""Options of the GROUPS -> the runs that chose them, one per seed."""


def main(arguments: list[str]) -> None:
    """Read a sweep, draw its figure, and write table and verdicts into a page.

    Args:
        arguments: directory of the sweep, path of the page, path of the figure.

    Raises:
        ConfigError: an argument is missing, the page has no markers, or the sweep has too few finished runs.
    """
    if len(arguments) != 3:
        raise ConfigError("usage: python scripts/plot_study.py SWEEP_DIRECTORY PAGE FIGURE")
    page, figure = Path(arguments[1]), Path(arguments[2])
    text = page.read_text() if page.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ConfigError(f"{page}: it must be a page with the two lines {BEGIN} and {END}")
    runs = [run for run in find_runs(arguments[:1]) if run.status == "finished" and METRIC in run.metrics]
    cells = by_cell(runs)
    if len(cells) < 2:
        raise ConfigError(f"{arguments[0]}: fewer than two finished combinations of {', '.join(GROUPS)}")
    draw(cells).savefig(figure, dpi=110)
    verdicts = [verdict(runs, group) for group in GROUPS if len({run.settings[group] for run in runs}) > 1]
    before, rest = text.split(BEGIN)
    body = "\n".join([BEGIN, *markdown_table(cells), "", *(f"- {line}" for line in verdicts), END])
    write_atomically(page, before + body + rest.split(END)[1])
    print("\n".join(verdicts))


def by_cell(runs: list[RunRecord]) -> Cells:
    """Group the runs that differ in the seed alone, the best mean first."""
    cells: Cells = defaultdict(list)
    for run in runs:
        cells[tuple(run.settings[group] for group in GROUPS)].append(run)
    return dict(sorted(cells.items(), key=lambda cell: -mean(values(cell[1], METRIC))))


def values(runs: list[RunRecord], metric: str) -> list[float]:
    """Return the metric of each run that has it."""
    return [run.metrics[metric] for run in runs if metric in run.metrics]


def spread(found: list[float]) -> float:
    """Return the standard deviation, 0 for a single value."""
    return stdev(found) if len(found) > 1 else 0.0


def markdown_table(cells: Cells) -> list[str]:
    """Return the lines of a Markdown table: a row per combination, mean and standard deviation over seeds."""
    lines = [f"| {' | '.join((*GROUPS, 'seeds', *COLUMNS))} |", "|---" * (len(GROUPS) + 1 + len(COLUMNS)) + "|"]
    for names, runs in cells.items():
        shown = [values(runs, metric) for metric in COLUMNS]
        numbers = [_mean_and_spread(found) if found else "" for found in shown]
        lines.append(f"| {' | '.join((*names, str(len(runs)), *numbers))} |")
    return lines


def _mean_and_spread(found: list[float]) -> str:
    return f"{mean(found):.3f} ± {spread(found):.3f}"


def verdict(runs: list[RunRecord], group: str) -> str:
    """Say which option of a group has the best mean, and by how much it leads the next one.

    Only combinations that every option of the group was trained in are compared.

    Args:
        runs: finished runs.
        group: one of GROUPS.

    Returns:
        A sentence in Markdown.
    """
    others = [name for name in (*GROUPS, "seed") if name != group]
    cells: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for run in runs:
        cells[tuple(run.settings[name] for name in others)][run.settings[group]] = run.metrics[METRIC]
    options = {option for cell in cells.values() for option in cell}
    complete = [cell for cell in cells.values() if cell.keys() == options]
    if not complete:
        return f"{group}: no two runs differ in it alone"
    best, second = sorted(options, key=lambda option: -mean(cell[option] for cell in complete))[:2]
    gains = [cell[best] - cell[second] for cell in complete]
    wins = sum(gain > 0 for gain in gains)
    return (
        f"`{group}={best}` is first, `{group}={second}` second: {METRIC} {mean(gains):+.3f}, standard deviation "
        f"{spread(gains):.3f} over {len(gains)} pairs of runs that differ in it alone, ahead in {wins} of them"
    )


def draw(cells: Cells) -> "Figure":
    """Draw a line per combination: a dot per seed, and their mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.32 * len(cells) + 1), layout="constrained")
    axis = figure.subplots()
    decoders = sorted({names[0] for names in cells})
    for place, (names, runs) in enumerate(cells.items()):
        found, colour = values(runs, METRIC), f"C{decoders.index(names[0])}"
        axis.plot(found, [place] * len(found), "o", color=colour, alpha=0.5, ms=5)
        axis.plot(mean(found), place, "|", color=colour, ms=14, mew=2)
    axis.set_yticks(range(len(cells)), [", ".join(names) for names in cells], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(f"{METRIC}, a dot per seed, their mean")
    axis.grid(axis="x", alpha=0.3)
    return figure
