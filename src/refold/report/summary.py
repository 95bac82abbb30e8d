"""The table that a run ends with."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from refold.scoring.labelled import MODEL
from refold.scoring.scored import alarm_words

PLANTED = {
    "average_precision": "average precision",
    "event_average_precision": "average precision by event",
    "event_f1": "event F1, threshold from validation",
}
"""Metrics of planted errors that tables show -> their captions."""


DETECTION_COLUMNS = {
    "average_precision": "AP",
    "auroc": "AUROC",
    "vus_pr": "VUS-PR",
    "event_f1": "event F1",
    "alarms": "alarms",
    "false_alarms": "false alarms",
    "false_bars": "false bars",
}
"""Metrics of labelled bars that tables show -> their captions."""

LABELLED = "labelled anomalies (AP: average precision); verdicts by the threshold, fitted to the scores of validation"
"""Caption of a table of metrics of labelled bars."""

SHOWN_FALSE_ALARMS = 3

SHOWN_STEPS = 5
"""Steps ahead that the table of predictions shows, the first and the last among them."""


def print_summary(result: dict[str, Any], run_dir: Path) -> None:
    """Print the errors of the model and of the baselines, the speed, and where to look.

    Args:
        result: content of result.json.
        run_dir: the run's directory.
    """
    table = Table(title=f"{result['run']}: reconstruction running free, in training standard deviations")
    rows = beside_baselines(result)
    for name in ["", *next(iter(rows.values()))]:
        table.add_column(name, justify="right" if name else "left")
    for name, values in rows.items():
        table.add_row(name, *("" if value is None else f"{value:.4f}" for value in values.values()))
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not console.is_terminal:  # nothing is folded in a file
        console.width = max(console.width, 120)
    console.print(table)
    own, pca = result["metrics"]["test/r2"], result["baselines"]["pca"]["test/r2"]
    ahead = "" if own is None or pca is None else f"test/r2 against PCA's: {own - pca:+.4f}; "
    console.print(f"{ahead}test/neighbours: share of a window's 10 nearest that its code keeps")
    metrics = {key: why for key, why in result["missing"].items() if key.startswith("metrics.")}
    for line in _missing_lines({key.removeprefix("metrics."): why for key, why in metrics.items()}):
        console.print(line)
    if rows := predicted_beside_baselines(result):
        console.print(console_table(predicted_caption(result), rows))
    if measured := result.get("detection"):
        print_detection(measured, console)
    if result["windows_per_s"]:
        console.print(
            f"{result['windows_per_s']:,.0f} windows per second in training, {result['parameters']:,} weights"
        )
    if found := result["detector"]:
        console.print(
            f"{found['score']}, {found['threshold']}: bars scoring above {found['level']:.4g}"
            f"{', or above the level of their own asset,' * ('levels' in found)} are flagged, "
            f"{alarm_words(found, found['bar_seconds'], 'val/')} on validation, "
            f"{alarm_words(found, found['bar_seconds'], 'test/')} on test"
        )
        if worth := found.get("worth"):
            console.print(worth_words(worth))
    for warning in result["warnings"]:
        console.print(f"warning: {warning}")
    directory = shlex.quote(_relative_path(run_dir))
    console.print(f"run directory: {directory}")
    if (run_dir / "wandb").is_dir():
        console.print(f"look at it:    wandb leet {directory}/wandb   (curves in the terminal), {directory}/figures/")
    else:
        console.print(f"look at it:    {directory}/figures/")


def worth_words(worth: Mapping[str, Any]) -> str:
    """Say what a run's verdict is worth, and where the other one is, a line each.

    Args:
        worth: as `refold.scoring.worth.measure_worth` returns it.
    """
    own = worth["verdict"]
    other = "named: refold score ... beside=planted" if own == "unusual" else "unusual: refold score ... beside=student"
    return (
        f"{own}: {worth['flagged']:,} of {worth['errors']:,} errors planted into a copy of test are flagged, average "
        f"precision {worth['average_precision']:.2f}\n{other} adds the other verdict"
    )


def _missing_lines(missing: Mapping[str, str]) -> list[str]:
    """Say which metrics have no value and why, in one line for those that share a reason."""
    shared: dict[str, list[str]] = {}
    for name, reason in missing.items():
        shared.setdefault(reason, []).append(name)
    return [
        f"{', '.join(names)} {'has' if len(names) == 1 else 'have'} no value: {why}" for why, names in shared.items()
    ]


def print_detection(measured: dict[str, Any], console: Console) -> None:
    """Print how well model and baselines find the labelled bars, and the false alarms with the highest scores.

    Args:
        measured: the section "detection" of result.json.
        console: to print on.
    """
    test, train = measured["test"], measured["train"]
    console.print(console_table(f"labelled anomalies of test: {_counted(test)}", detection_rows(measured)))
    if line := false_alarm_line(test["listed_false_alarms"], test["scorers"][MODEL]["false_alarms"], "on test"):
        console.print(line)
    console.print("AP: average precision; verdicts by the run's threshold, fitted to each row's scores of validation")
    if train["anomalous_bars"]:
        console.print(
            f"{train['anomalous_bars']:,} of {train['bars']:,} training bars are labelled; the model learns them too"
        )


def print_labelled(measured: dict[str, dict[str, Any]], console: Console) -> None:
    """Print how well the labelled bars of a scoring are found, and the false alarms with the highest scores.

    Args:
        measured: the section "detection" of scoring.json: part -> metrics.
        console: to print on.
    """
    console.print(console_table("labelled anomalies; AP: average precision", labelled_rows(measured)))
    for part, found in measured.items():
        console.print(f"labelled on {part}: {_counted(found)}; a random score has their share as AP")
        reasons = {f"{part}/{name}": reason for name, reason in found["missing"].items()}
        for line in _missing_lines(reasons):
            console.print(line)
        if line := false_alarm_line(found["listed_false_alarms"], found["false_alarms"], f"on {part}"):
            console.print(line)
    console.print(
        "this is the model alone; a training with labels ends with PCA, an isolation forest, a robust z and chance "
        "beside it (detection in result.json of the run)"
    )


def _counted(found: dict[str, Any]) -> str:
    labelled, bars, events = found["anomalous_bars"], found["bars"], found["anomalous_events"]
    share = labelled / bars if bars else 0
    return f"{labelled:,} of {bars:,} scored bars ({share:.2%}), {events:,} event{'s' * (events != 1)}"


def false_alarm_line(listed: list[dict[str, Any]], count: int, where: str) -> str:
    """Name the false alarms with the highest scores; an empty text if there are none.

    Args:
        listed: asset, start and end of some, the highest scores first.
        count: number of false alarms in all.
        where: the bars, such as "on test".
    """
    shown = "; ".join(
        f"{one['asset']} {one['start']}" + f" to {one['end']}" * (one["end"] != one["start"])
        for one in listed[:SHOWN_FALSE_ALARMS]
    )
    more = count - min(len(listed), SHOWN_FALSE_ALARMS)
    return f"false alarms {where}: {shown}" + f"; and {more} more" * (more > 0) if listed else ""


def console_table(title: str, rows: Mapping[str, Mapping[str, float | None]]) -> Table:
    """Return a table of numbers for a terminal.

    Args:
        title: title of the table.
        rows: row -> column -> value, None where there is none.
    """
    table = Table(title=title)
    for name in ["", *next(iter(rows.values()))]:
        table.add_column(name, justify="right" if name else "left")
    for name, values in rows.items():
        cells = ["" if v is None else f"{v:,}" if isinstance(v, int) else f"{v:.4f}" for v in values.values()]
        table.add_row(name, *cells)
    return table


def detection_rows(measured: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return how well model and baselines find the labelled bars of the test part, and how validation ranks them.

    Args:
        measured: the section "detection" of result.json.

    Returns:
        Scorer -> column -> value, None where there is none.
    """
    val, test = measured["val"]["scorers"], measured["test"]["scorers"]
    return {
        scorer: {
            "val AP": val[scorer]["average_precision"],
            **{caption: row[name] for name, caption in DETECTION_COLUMNS.items()},
        }
        for scorer, row in test.items()
    }


def labelled_rows(measured: dict[str, dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Return how well the labelled bars of a scoring are found.

    Args:
        measured: the section "detection" of scoring.json: part -> metrics.

    Returns:
        Part -> column -> value, None where there is none.
    """
    return {
        part: {caption: found[name] for name, caption in DETECTION_COLUMNS.items()} for part, found in measured.items()
    }


def beside_baselines(result: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return the errors of the model and of the baselines that it has to beat.

    Args:
        result: content of result.json.

    Returns:
        Row -> column -> value, None where there is none.
    """
    columns = ["val/reconstruction_mse", "val/r2", "test/reconstruction_mse", "test/r2", "test/neighbours"]
    rows = {
        MODEL: result["metrics"],
        f"PCA, {result['code_size']} components": result["baselines"]["pca"],
        "training mean": result["baselines"]["mean"],
    }
    return {
        row: {name.replace("reconstruction_", ""): metrics.get(name) for name in columns}
        for row, metrics in rows.items()
    }


def predicted_caption(result: dict[str, Any]) -> str:
    """Return the caption of `predicted_beside_baselines`."""
    return f"R2 of the {result['prediction']['horizon']} bars after a window, predicted running free; @n: n bars ahead"


def predicted_beside_baselines(result: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return R2 of the predictor and of the baselines that it has to beat; empty without a predictor.

    Args:
        result: content of result.json.

    Returns:
        Row -> column -> value, None where there is none; of many steps ahead some are columns.
    """
    if "prediction" not in result:
        return {}
    horizon, baselines = result["prediction"]["horizon"], result["prediction"]["baselines"]
    steps = sorted({1 + round(n * (horizon - 1) / (SHOWN_STEPS - 1)) for n in range(SHOWN_STEPS)})
    columns = {"val": "val/prediction_r2", "test": "test/prediction_r2"}
    columns |= {f"test @{n}": f"test/prediction_r2_{n}" for n in steps}
    rows = {
        MODEL: result["metrics"],
        "last value": baselines["last_value"],
        "mean": baselines["mean"],
        "ridge on the window": baselines["ridge"],
    }
    return {row: {caption: found.get(name) for caption, name in columns.items()} for row, found in rows.items()}


def tables(result: dict[str, Any]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return all tables of a result in which the model stands beside baselines.

    Args:
        result: content of result.json.

    Returns:
        Caption -> row -> column -> value, None where there is none.
    """
    found = {"reconstruction running free, in training variances": beside_baselines(result)}
    if rows := predicted_beside_baselines(result):
        found[predicted_caption(result)] = rows
    if measured := result.get("detection"):
        found[LABELLED] = detection_rows(measured)
    if measured := result.get("price_errors"):
        for metric, title in PLANTED.items():
            for row in measured["errors"]:
                sizes = f", {row['set']}" if "set" in row else ""
                rows = found.setdefault(f"errors planted into the test part{sizes}, {title}", {})
                rows.setdefault(row["scorer"], {})[row["kind"]] = row.get(metric)
    return found


def _relative_path(path: Path) -> str:
    """Shorten a path below the working directory to a relative one; return any other path unchanged."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
