"""The result of `experiment=decoder_study`: a figure, a table, and which option won by how much against the spread.

python scripts/plot_study.py outputs/sweep_2026-01-31_12-00-00_7f3a91 README.md docs/decoder_study.png

Table and verdicts go into the page, between its two markers.
"""

import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from refold.cli import command
from refold.errors import ConfigError
from refold.runs.directory import write_atomically
from refold.runs.records import RunRecord, find_runs

METRIC, SHOWN = "test/r2", ("test/r2", "val/r2", "val/exposure_gap")
GROUPS = ("decoder", "teacher_forcing", "layers")
BEGIN, END = "<!-- decoder study: begin -->", "<!-- decoder study: end -->"


def main(arguments: list[str]) -> None:
    """Read, draw, write. Raises: RefoldError."""
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
    body = "\n".join([BEGIN, *table(cells), "", *(f"- {line}" for line in verdicts), END])
    write_atomically(page, before + body + rest.split(END)[1])
    print("\n".join(verdicts))


def by_cell(runs: list[RunRecord]) -> dict[tuple[str, ...], list[RunRecord]]:
    """Runs that differ in the seed alone, the best mean first."""
    cells = defaultdict(list)
    for run in runs:
        cells[tuple(run.settings[group] for group in GROUPS)].append(run)
    return dict(sorted(cells.items(), key=lambda cell: -mean(values(cell[1], METRIC))))


def values(runs: list[RunRecord], metric: str) -> list[float]:
    """The metric of each run that has it."""
    return [run.metrics[metric] for run in runs if metric in run.metrics]


def spread(found: list[float]) -> float:
    """Standard deviation; 0 of a single value."""
    return stdev(found) if len(found) > 1 else 0.0


def table(cells: dict[tuple[str, ...], list[RunRecord]]) -> list[str]:
    """Markdown: one row per combination, mean and standard deviation over seeds."""
    lines = [f"| {' | '.join((*GROUPS, 'seeds', *SHOWN))} |", "|---" * (len(GROUPS) + 1 + len(SHOWN)) + "|"]
    for names, runs in cells.items():
        shown = [values(runs, metric) for metric in SHOWN]
        numbers = [_number(found) if found else "" for found in shown]
        lines.append(f"| {' | '.join((*names, str(len(runs)), *numbers))} |")
    return lines


def _number(found: list[float]) -> str:
    return f"{mean(found):.3f} ± {spread(found):.3f}"


def verdict(runs: list[RunRecord], group: str) -> str:
    """Which option of a group has the best mean, over runs that are equal in everything else, against the next one."""
    others = [name for name in (*GROUPS, "seed") if name != group]
    cells: dict[tuple, dict[str, float]] = defaultdict(dict)
    for run in runs:
        cells[tuple(run.settings[name] for name in others)][run.settings[group]] = run.metrics[METRIC]
    options = {option for cell in cells.values() for option in cell}
    whole = [cell for cell in cells.values() if cell.keys() == options]
    if not whole:
        return f"{group}: no two runs differ in it alone"
    best, second = sorted(options, key=lambda option: -mean(cell[option] for cell in whole))[:2]
    gains = [cell[best] - cell[second] for cell in whole]
    wins = sum(gain > 0 for gain in gains)
    return (
        f"`{group}={best}` is first, `{group}={second}` second: {METRIC} {mean(gains):+.3f}, standard deviation "
        f"{spread(gains):.3f} over {len(gains)} pairs of runs that differ in it alone, ahead in {wins} of them"
    )


def draw(cells: dict[tuple[str, ...], list[RunRecord]]) -> Figure:
    """One line per combination: a dot per seed, and the mean."""
    figure, axis = plt.subplots(figsize=(8, 0.32 * len(cells) + 1), layout="constrained")
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


if __name__ == "__main__":
    sys.exit(command.run_command(lambda: main(sys.argv[1:]), Path(__file__).resolve().parents[1] / "conf"))
