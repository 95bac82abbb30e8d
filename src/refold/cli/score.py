"""Score bars with a finished run: how strange each bar is, which are flagged, and why.

    python scripts/score.py run=outputs/latest data.path=NEW.csv    a file of bars such as the run was trained on
    python scripts/score.py run=outputs/latest                      the run's own validation and test parts
    python scripts/score.py run=outputs/latest score=gauss_d threshold=pot threshold.risk=1e-4 alignment=last

Writes scores.parquet, events.csv, findings.csv, scoring.json and report.html into out=FOLDER, by default in the run
directory: scores/<name of the file>, or scores/own. The folder appears whole or not at all. What is
chosen anew (score, threshold, alignment) is fitted to the run's own training and validation data, never to what is
scored. device=auto|cpu|cuda.

repair=true proposes what the bars of each event should have been, in repairs.csv; repair=copy also writes the bars with
these values, in repaired.parquet. The bars themselves are never changed.

beside=NAME adds the other verdict, as another score gives it with a threshold of its own: beside=planted names errors
beside a score of unusual bars, beside=student finds unusual bars beside score=planted. Its scores are beside.parquet.

on=ray shares the assets of data.path out among the workers of Ray, on this machine or on the cluster that RAY_ADDRESS
names; workers=N limits them. scores.parquet is then a folder of files.

decisions=FILE reads what the buttons of a report of this run saved: what was dismissed there is not raised again.
"""

import logging
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from refold.cli import command
from refold.data.bars.findings import describe_findings
from refold.errors import ConfigError
from refold.library.beside import BESIDE, beside_words, with_beside
from refold.library.decisions import decisions_words
from refold.library.judge import Judge
from refold.library.on_ray import read_choice
from refold.library.repairing import REPAIRED, REPAIRS, check_choice, propose_repairs, repairs_for_report, write_repairs
from refold.library.run import load_run
from refold.library.scored_files import SCORED_FILES, write_scored_files
from refold.report.summary import print_labelled
from refold.runs.directory import atomic_folder
from refold.scoring.drift import drift_words
from refold.scoring.scored import alarm_words

OWN = ("run", "out", "device", "on", "workers", "trust", "repair", "decisions", "beside")


def main() -> None:
    """Load the run, score, write, and print what was found."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = command.read_arguments(sys.argv[1:], __doc__)
    if "run" not in settings:
        raise ConfigError("run has no value; give one: run=outputs/latest")
    on_ray = read_choice(settings)
    run = load_run(settings["run"], trust=command.trusted(settings))
    repair = check_choice(settings.get("repair", "false"))
    others = {key: value for key, value in settings.items() if key not in OWN}
    decisions, beside = settings.get("decisions"), settings.get("beside")
    judge = Judge(run, settings=others, decisions=decisions, progress=command.progress_bar, on_ray=on_ray)
    run.autoencoder.to(command.device(settings.get("device", "cpu" if on_ray else "auto")))
    out = Path(settings.get("out", run.directory / "scores" / judge.name))
    with atomic_folder(out, "out", (*SCORED_FILES, REPAIRS, REPAIRED, BESIDE)) as judge.folder:
        scoring = judge.score(thresholds=True, evidence=True)
        if beside is not None:
            scoring = with_beside(judge, scoring, beside, settings=others, decisions=decisions)
        propose = repairs_for_report if repair == "false" else propose_repairs
        repairs = propose(judge, scoring)
        facts = write_scored_files(run, scoring, judge.folder, repairs and repairs.proposed)
        if repairs and repair != "false":
            write_repairs(repairs, judge.folder, repair)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"checks: {describe_findings(scoring.findings)}")
    print_facts(console, facts)
    if repairs and repair != "false":
        console.print(repairs.words())
    console.print(f"scores, events and report: {out}")


def print_facts(console: Console, facts: dict[str, Any]) -> None:
    """Print what was found, and what other thresholds would give.

    Args:
        console: to print on.
        facts: the content of scoring.json.
    """
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts["kinds"].items()) or "none"
    if rates := facts["thresholds"]:
        table = Table("threshold", title=f"alarms per {facts['thresholds_per']}, by threshold")
        for column in next(iter(rates.values())):
            table.add_column(column, justify="right")
        for name, row in rates.items():
            table.add_row(name, *(f"{value:.4g}" for value in row.values()))
        console.print(table)
    console.print(
        f"{facts['bars']:,} bars, {facts['scored_bars']:,} scored, {facts['flagged_bars']:,} flagged in "
        f"{facts['alarms']:,} events: {kinds}"
    )
    lacking = ", ".join(f"{count:,} {reason}" for reason, count in facts["without_score"].items())
    if lacking:
        console.print(f"{sum(facts['without_score'].values()):,} bars without a score: {lacking}")
    for asset, why in facts.get("refused_assets", {}).items():
        console.print(f"{asset} has no scores: {why}")
    if found := ", ".join(f"{count:,} {check}" for check, count in facts["found_by_checks"].items()):
        console.print(f"bars that checks found: {found}")
    console.print(
        f"{facts['score']}, {facts['threshold']}, {facts['alignment']}: level {facts['level']:.4g}, "
        f"{alarm_words(facts, facts['bar_seconds'], 'val/')} on validation, "
        f"{alarm_words(facts, facts['bar_seconds'])} here"
    )
    if other := facts.get("beside"):
        console.print(beside_words(other))
    if drift := facts.get("drift"):
        console.print(f"drift: {drift_words(drift)}")
    if "decisions" in facts:
        console.print(decisions_words(facts["decisions"], facts["dismissed_bars"]))
    if measured := facts.get("detection"):
        print_labelled(measured, console)
