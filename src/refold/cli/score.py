"""Score bars with a finished run: how strange each bar is, which are flagged, and why.

    python scripts/score.py run=outputs/latest data.path=NEW.csv    a file of bars such as the run was trained on
    python scripts/score.py run=outputs/latest                      the run's own validation and test parts
    python scripts/score.py run=outputs/latest score=gauss_d threshold=pot threshold.risk=1e-4 alignment=last

Writes scores.parquet, events.csv, findings.csv, scoring.json and report.html into out=FOLDER, by default in the run
directory: scores/<name of the file>, or scores/own. The folder appears whole or not at all. What is
chosen anew (score, threshold, alignment) is fitted to the run's own training and validation data, never to what is
scored. device=auto|cpu|cuda.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from refold.cli import command
from refold.cli.command import CONF
from refold.config import build as config
from refold.config.change import all_thresholds, choose_anew, taken_up
from refold.data import Windows
from refold.data.bars.findings import merge, summary
from refold.data.long.ordered import read_sorted
from refold.data.long.spool import TableSpool
from refold.errors import ConfigError, DataError
from refold.library.run import Run, load_run
from refold.report import evidence
from refold.report.evidence import Evidence
from refold.report.page import write_page
from refold.report.summary import tables
from refold.runs.directory import FINDINGS, RESULT, atomic_folder
from refold.runs.settings import give_all_anew
from refold.scoring.alarms import AlarmRates, covered
from refold.scoring.detector import Detector, per_asset_year
from refold.scoring.events import Events
from refold.scoring.scan import scan, scan_parts

log = logging.getLogger("refold.score")
SCORES = "scores.parquet"
FILES = (SCORES, "events.csv", FINDINGS, "scoring.json", "report.html")
OWN = ("run", "out", "device", "trust")
HERE = "these bars"

Comparing = Callable[[int], AlarmRates | None]
"""How many bars there will be -> what counts the alarms of all thresholds on them."""


def main() -> None:
    """Load the run, fit what was chosen anew, score, write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = command.settings(sys.argv[1:], __doc__)
    if "run" not in settings:
        raise ConfigError("run has no value; give one: run=outputs/latest")
    run = load_run(settings["run"], trust=command.trusted(settings))
    others = {key: value for key, value in settings.items() if key not in OWN}
    others = give_all_anew(run.config, others)
    cfg = choose_anew(run.config, others, CONF)
    run.autoencoder.to(command.device(settings.get("device", "auto")))
    anew = any(key.partition(".")[0] in ("score", "threshold", "alignment") for key in others)
    detector = refit(run, cfg) if anew or run.detector is None else run.detector
    data = config.build_data(cfg)
    detector.recipe = data.recipe  # its checks may have been chosen anew
    other_data = any(key.startswith("data.") for key in others)
    name = Path(cfg.data.path).name.split(".")[0] if other_data and cfg.data.get("path") else "own"
    out = Path(settings.get("out", run.directory / "scores" / name))
    with atomic_folder(out, "out", FILES) as folder:
        if other_data:
            facts, shown = score_bars(detector, data.source, comparing(detector, cfg), folder)
        else:
            facts, shown = score_own(run, detector, comparing(detector, cfg), folder)
        write_rest(run, detector, folder, facts, shown)
    print_result(detector, facts, out)


def own_data(run: Run) -> Any:
    """The data that a run was trained on, on the run's own scale."""
    data = config.build_data(run.config)
    data.scaler = run.scaler
    data.setup()
    result = run.directory / RESULT
    trained_on = json.loads(result.read_text()).get("data_fingerprint") if result.exists() else data.fingerprint
    if data.fingerprint != trained_on:
        log.warning("the run's data has changed since it was trained (%s, now %s)", trained_on, data.fingerprint)
    return data


def refit(run: Run, cfg: DictConfig) -> Detector:
    """A detector with the score, threshold and alignment of a configuration, fitted to the run's own data."""
    data = own_data(run)
    detector = config.build_detector(cfg, run.autoencoder, data.recipe, run.scaler, data.feature_names)
    series = data.train_windows.series
    return detector.fit_series((series, data.segments("train")), (series, data.segments("val")))


def comparing(detector: Detector, cfg: DictConfig) -> Comparing:
    """All thresholds, fitted to the detector's validation scores."""
    if "asset" not in detector.validation:
        log.warning("the run's detector is of a version that kept no validation scores in order: no other thresholds")
        return lambda rows: None
    thresholds = {name: config.build_threshold(choice) for name, choice in all_thresholds(cfg, CONF).items()}
    return lambda rows: AlarmRates(thresholds, detector.validation, rows)


def score_bars(detector: Detector, source: Any, comparison: Comparing, folder: Path) -> tuple[dict[str, Any], Evidence]:
    """Score all bars of a source into a folder. Returns: what was found, and what the report shows of it."""
    with taken_up(detector, source, folder) as bars:
        findings, compared = [bars.findings], comparison(bars.rows)
        with command.progress_bar(bars.rows, "bars scored") as progress:
            frames = scan(detector, bars, progress=progress, findings=findings.append)
            found = write_scores(frames, compared, HERE, folder)
        write_findings(merge(findings), folder)
        return found, evidence.of_bars(detector, bars, pl.scan_parquet(folder / SCORES), HERE)


def score_own(run: Run, detector: Detector, comparison: Comparing, folder: Path) -> tuple[dict[str, Any], Evidence]:
    """Score the run's own validation and test parts into a folder. Returns: as `score_bars`."""
    data = own_data(run)
    bars = read_sorted([data.source.load()], detector.recipe.checks)
    parts = {part: data.segments(part) for part in ("val", "test")}
    total = sum(int(runs[:, 1].sum()) for runs in parts.values())
    with command.progress_bar(total, "bars scored") as progress:
        frames = scan_parts(detector, bars.slice(0, bars.rows), parts, progress)
        found = write_scores(frames, comparison(int(parts["test"][:, 1].sum())), "test", folder)
    write_findings(data.findings, folder)
    windows = {
        {"val": "validation"}.get(part, part): Windows(
            data.train_windows.series, runs, window_size=detector.recipe.window_size, stride=1
        )
        for part, runs in parts.items()
    }
    return found, evidence.of_parts(detector, windows, pl.scan_parquet(folder / SCORES))


def write_scores(
    frames: Iterable[pl.DataFrame], compared: AlarmRates | None, name: str, folder: Path
) -> dict[str, Any]:
    """Write scores.parquet and events.csv.

    Args: compared: is given the rows that are not of validation; `name` is theirs.
    Returns: counts, and alarms per asset and year, of other thresholds too.
    """
    spool, events = TableSpool(folder / SCORES), Events()
    for table in frames:
        spool.add(table.drop("place", "kind"))
        events.add(table)
        if compared and (name == HERE or table["part"][0] == name):
            compared.add(table)
    scores = spool.table()
    scored, moments, span = covered(scores)
    if not scored:
        raise DataError("no bar could be scored: no unbroken run of bars is as long as a window")
    found = events.table()
    found.write_csv(folder / "events.csv")
    others = covered(scores.filter(part=name)) if name != HERE else (scored, moments, span)
    return {
        "bars": spool.rows,
        "scored_bars": scored,
        "flagged_bars": events.flagged,
        "alarms": found.height,
        "alarms_per_asset_year": per_asset_year(found.height, scored, moments, span),
        "kinds": dict(sorted(found["kind"].value_counts().iter_rows())),
        "thresholds": compared.rates(*others[1:], name) if compared else {},
    }


def write_findings(findings: pl.DataFrame, folder: Path) -> None:
    """Print and keep what the checks of the data found."""
    Console(soft_wrap=True, highlight=False).print(f"checks: {summary(findings)}")
    findings.write_csv(folder / FINDINGS)


def write_rest(run: Run, detector: Detector, folder: Path, found: dict[str, Any], shown: Evidence) -> None:
    """Write scoring.json and report.html."""
    facts = {
        "run": run.config.run.id,
        "score": type(detector.score_function).__name__,
        "threshold": type(detector.threshold).__name__,
        "alignment": detector.alignment,
        "level": detector.validation["level"],
        "val/alarms_per_asset_year": detector.validation["alarms_per_asset_year"],
        **found,
    }
    (folder / "scoring.json").write_text(json.dumps(facts, indent=2) + "\n")
    scores = pl.scan_parquet(folder / SCORES)
    values = {"validation": detector.validation["scores"].numpy(), HERE: scores}
    if "part" in scores.collect_schema():  # of the run's own, which fit into memory
        scores = scores.collect()
        values = {"validation": values["validation"], "test": scores.filter(part="test").lazy()}
    result = run.directory / RESULT
    write_page(
        folder / "report.html",
        title=f"{facts['run']}: scored bars",
        scores=scores,
        events=pl.read_csv(folder / "events.csv", try_parse_dates=True),
        split_scores=values,
        feature_errors=shown.feature_errors,
        windows=shown.windows,
        features=detector.features,
        latents=shown.latents,
        alarm_rates=found["thresholds"],
        baselines=tables(json.loads(result.read_text())) if result.exists() else None,
        facts={
            "score": f"{facts['score']}, {facts['alignment']} of windows",
            "threshold": f"{facts['threshold']}, {facts['level']:.4g}",
        },
    )


def print_result(detector: Detector, found: dict[str, Any], out: Path) -> None:
    """Say what was found, what other thresholds would give, and where it is."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in found["kinds"].items()) or "none"
    console = Console(soft_wrap=True, highlight=False)
    if rates := found["thresholds"]:
        table = Table("threshold", title="alarms per asset and year, by threshold")
        for column in next(iter(rates.values())):
            table.add_column(column, justify="right")
        for name, row in rates.items():
            table.add_row(name, *(f"{value:.4g}" for value in row.values()))
        console.print(table)
    console.print(
        f"{found['bars']:,} bars, {found['scored_bars']:,} scored, {found['flagged_bars']:,} flagged in "
        f"{found['alarms']:,} events: {kinds}"
    )
    console.print(
        f"{type(detector.score_function).__name__}, {type(detector.threshold).__name__}, {detector.alignment}: level "
        f"{detector.validation['level']:.4g}, {detector.validation['alarms_per_asset_year']:.1f} alarms per asset and "
        f"year on validation, {found['alarms_per_asset_year']:.1f} here"
    )
    console.print(f"scores, events and report: {out}")
