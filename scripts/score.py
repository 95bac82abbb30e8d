"""Score bars with a finished run: how strange each bar is, which are flagged, and why.

    python scripts/score.py run=outputs/latest data.path=NEW.csv    a file of bars such as the run was trained on
    python scripts/score.py run=outputs/latest                      the run's own validation and test parts
    python scripts/score.py run=outputs/latest score=gauss_d threshold=pot threshold.risk=1e-4 alignment=last

Writes scores.parquet, events.csv, scoring.json and report.html into out=FOLDER, by default in the run directory:
scores/<name of the file>, or scores/own. The folder appears whole or not at all. What is chosen anew (score, threshold,
alignment) is fitted to the run's own training and validation data, never to what is scored. device=auto|cpu|cuda.
"""

import json
import logging
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
from omegaconf import DictConfig
from rich.console import Console

from refold import command, config
from refold.data import Windows
from refold.errors import ConfigError, DataError
from refold.report import evidence
from refold.report.evidence import Evidence
from refold.report.page import write_page
from refold.report.summary import tables
from refold.rescore import choose_anew
from refold.run import RESULT, whole_folder
from refold.scoring.detector import Detector, per_asset_year
from refold.scoring.events import group
from refold.scoring.scan import in_order, refuse_unlike, scan, scan_parts

log = logging.getLogger("refold.score")
CONF = Path(__file__).resolve().parents[1] / "conf"
FILES = ("scores.parquet", "events.csv", "scoring.json", "report.html")
OWN = ("run", "out", "device")


def main() -> None:
    """Load the run, fit what was chosen anew, score, write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = command.settings(sys.argv[1:], __doc__)
    if "run" not in settings:
        raise ConfigError("run has no value; give one: run=outputs/latest")
    run = config.load_run(settings["run"])
    others = {key: value for key, value in settings.items() if key not in OWN}
    cfg = choose_anew(run.config, others, CONF)
    run.autoencoder.to(command.device(settings.get("device", "auto")))
    anew = any(key.partition(".")[0] in ("score", "threshold", "alignment") for key in others)
    detector = refit(run, cfg) if anew or run.detector is None else run.detector
    detector.recipe = config.build_data(cfg).recipe  # its checks may have been chosen anew
    other_data = any(key.startswith("data.") for key in others)
    name = Path(cfg.data.path).name.split(".")[0] if other_data and cfg.data.get("path") else "own"
    out = Path(settings.get("out", run.directory / "scores" / name))
    with whole_folder(out, "out", FILES) as folder:
        if other_data:
            facts, shown = score_bars(detector, config.build_data(cfg).source, folder)
        else:
            facts, shown = score_own(run, detector, folder)
        write_rest(run, detector, folder, facts, shown)
    print_result(detector, facts, out)


def own_data(run: config.Run) -> Any:
    """The data that a run was trained on, on the run's own scale."""
    data = config.build_data(run.config)
    data.scaler = run.scaler
    data.setup()
    result = run.directory / RESULT
    trained_on = json.loads(result.read_text()).get("data_fingerprint") if result.exists() else data.fingerprint
    if data.fingerprint != trained_on:
        log.warning("the run's data has changed since it was trained (%s, now %s)", trained_on, data.fingerprint)
    return data


def refit(run: config.Run, cfg: DictConfig) -> Detector:
    """A detector with the score, threshold and alignment of a configuration, fitted to the run's own data."""
    data = own_data(run)
    detector = config.build_detector(cfg, run.autoencoder, data, run.scaler, data.feature_names)
    series = data.train_windows.series
    return detector.fit_series((series, data.segments("train")), (series, data.segments("val")))


def score_bars(detector: Detector, source: Any, folder: Path) -> tuple[dict[str, Any], Evidence]:
    """Score all bars of a source into a folder. Returns: what was found, and what the report shows of it."""
    bars = source.load()
    refuse_unlike(detector, bars, str(source))
    bars = in_order(detector, bars)
    with command.progress_bar(bars.height, "bars scored") as progress:
        found = write_scores(scan(detector, bars, progress=progress), folder)
    return found, evidence.of_bars(detector, bars, pl.scan_parquet(folder / "scores.parquet"), "these bars")


def score_own(run: config.Run, detector: Detector, folder: Path) -> tuple[dict[str, Any], Evidence]:
    """Score the run's own validation and test parts into a folder. Returns: as `score_bars`."""
    data = own_data(run)
    bars = in_order(detector, data.source.load())
    parts = {part: data.segments(part) for part in ("val", "test")}
    found = write_scores(scan_parts(detector, bars, parts), folder)
    windows = {
        {"val": "validation"}.get(part, part): Windows(
            data.train_windows.series, runs, window_size=detector.recipe.window_size, stride=1
        )
        for part, runs in parts.items()
    }
    return found, evidence.of_parts(detector, windows, pl.scan_parquet(folder / "scores.parquet"))


def write_scores(frames: Iterable[pl.DataFrame], folder: Path) -> dict[str, Any]:
    """Write scores.parquet and events.csv. Returns: counts, and alarms per asset and year."""
    pieces, flagged, times = folder / "pieces", [], []
    pieces.mkdir()
    rows = scored = 0
    for number, table in enumerate(frames):
        table.drop("place", "kind").write_parquet(pieces / f"{number:06}.parquet")
        flagged.append(table.filter("verdict"))
        times.append(table.filter(pl.col("score").is_not_null())["timestamp"].unique())
        rows, scored = rows + table.height, scored + len(table["score"].drop_nulls())
    if not scored:
        raise DataError("no bar could be scored: no unbroken run of bars is as long as a window")
    pl.scan_parquet(sorted(pieces.iterdir())).sink_parquet(folder / "scores.parquet")
    shutil.rmtree(pieces)
    events = group(pl.concat(flagged))
    events.write_csv(folder / "events.csv")
    moments = pl.concat(times).unique().sort()
    span = (moments[-1] - moments[0]).total_seconds()
    return {
        "bars": rows,
        "scored_bars": scored,
        "flagged_bars": sum(table.height for table in flagged),
        "alarms": events.height,
        "alarms_per_asset_year": per_asset_year(events.height, scored, len(moments), span),
        "kinds": dict(sorted(events["kind"].value_counts().iter_rows())),
    }


def write_rest(run: config.Run, detector: Detector, folder: Path, found: dict[str, Any], shown: Evidence) -> None:
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
    scores = pl.scan_parquet(folder / "scores.parquet")
    values = {"validation": detector.validation["scores"].numpy()}
    if "part" in scores.collect_schema():
        values["test"] = scores.filter(part="test").select("score").collect().to_series().to_numpy()
    else:
        values["these bars"] = scores.select("score").collect().to_series().to_numpy()
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
        baselines=tables(json.loads(result.read_text())) if result.exists() else None,
        facts={
            "score": f"{facts['score']}, {facts['alignment']} of windows",
            "threshold": f"{facts['threshold']}, {facts['level']:.4g}",
        },
    )


def print_result(detector: Detector, found: dict[str, Any], out: Path) -> None:
    """Say what was found, and where it is."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in found["kinds"].items()) or "none"
    console = Console(soft_wrap=True, highlight=False)
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


if __name__ == "__main__":
    sys.exit(command.run_command(main, CONF))
