"""Train a challenger of a finished run on newer data, and say which of the two to keep. Nothing is replaced.

    refold retrain run=outputs/latest data.path=NEW.csv            all bars up to now, the old ones too
    refold retrain run=outputs/latest                              the run's own source, read anew
    refold retrain run=outputs/latest data.path=NEW.csv out=DIR    the challenger's run directory

The challenger has the settings of the run; trainer.* and data.* may be given anew. It is trained on the first 70 % of
the calendar, validates on the next 15 % (data.split.*) and leaves the newest bars alone. Both runs are compared on
those that come after everything that either was fitted to. outputs/latest stays where it is.
"""

import logging
import secrets
import sys
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from refold.cli import command, job
from refold.cli.train import train_on
from refold.config.arguments import hide_arguments
from refold.config.build import Parts
from refold.config.mistakes import nearest
from refold.config.validate import check
from refold.errors import ConfigError
from refold.launch.hardware import find_machine, plan
from refold.launch.worker_process import JOB_LOG_FORMAT
from refold.library import challenge
from refold.library.run import Run, load_run
from refold.runs.directory import LOG, discard_unused, latest_kept
from refold.runs.settings import to_plain
from refold.runs.trust import EVERYTHING

OWN = ("run", "out", "trust")


def main() -> None:
    """Load the run, train the challenger, compare, and print which to keep."""
    settings = command.read_arguments(sys.argv[1:], __doc__)
    if "run" not in settings:
        raise ConfigError("run has no value; give one: run=outputs/latest")
    given = {key: value for key, value in settings.items() if key not in OWN}
    for key in given:
        if not key.startswith(("data.", "trainer.")):
            names = {*OWN, "data.path", "trainer.max_epochs"}
            raise ConfigError(f"{key}: a challenger keeps the settings of the run{nearest(key, names)}")
    champion = load_run(settings["run"], trust=command.trusted(settings))
    run_dir = Path(settings.get("out", default_directory(champion))).absolute()
    run_dir.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    file = logging.FileHandler(run_dir / LOG, delay=True)
    file.setFormatter(logging.Formatter(JOB_LOG_FORMAT))
    logging.getLogger().addHandler(file)
    try:
        outcome = retrain(champion, given, run_dir)
    finally:
        logging.getLogger().removeHandler(file)
        file.close()
    print_outcome(outcome, champion.directory)


def default_directory(champion: Run) -> Path:
    """Return a directory for a challenger, beside those of other runs."""
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_retrain-s{champion.config.seed}-{secrets.token_hex(3)}"
    return Path("outputs") / name


def retrain(champion: Run, given: dict[str, str], run_dir: Path) -> challenge.Challenge:
    """Train a challenger and compare it with its champion.

    Args:
        champion: a finished run.
        given: data.* and trainer.* that are given anew, as on the command line.
        run_dir: directory of the challenger.

    Raises:
        RefoldError: a setting is wrong, the data has no bars that the champion was not fitted to, or training fails.
    """
    try:
        cfg = challenge.challenger_settings(champion, given)
        overrides = hide_arguments([f"{key}={value}" for key, value in given.items()])
        choices = to_plain(champion.config.run).get("choices") or {}
        cfg = job.begin(cfg, run_dir, choices=choices, overrides=overrides, group=None)
        parts = Parts(cfg)
        for without_effect in check(cfg, parts):
            logging.getLogger("refold").warning(without_effect)
        machine = find_machine()
        hardware = plan(to_plain(cfg.trainer), machine, None)
        cfg.trainer = hardware.settings
        challenge.refuse_seen(champion, cfg)
        with latest_kept(run_dir):
            train_on(hardware, cfg, run_dir, cores=machine.cores, world=None, parts=parts)
    except BaseException:
        discard_unused(run_dir)
        raise
    challenger = load_run(run_dir, trust=EVERYTHING)  # the parts are those of the champion, which was trusted
    return challenge.compare_pair(champion, challenger, given)


def print_outcome(outcome: challenge.Challenge, champion: Path) -> None:
    """Print both runs beside each other, and which to keep.

    Args:
        outcome: of the comparison.
        champion: run directory.
    """
    console = Console(soft_wrap=True, highlight=False)
    table = Table("", challenge.CHAMPION, challenge.CHALLENGER)
    for row, values in outcome.measures.items():
        cells = [values.get(name) for name in (challenge.CHAMPION, challenge.CHALLENGER)]
        table.add_row(row, *(f"{cell:.4f}" if isinstance(cell, float) else str(cell or "") for cell in cells))
    console.print(table)
    console.print(f"{outcome.bars:,} bars that neither was fitted to, from {outcome.first} to {outcome.last}")
    kept = outcome.challenger if outcome.keep == challenge.CHALLENGER else champion
    console.print(f"keep the {outcome.keep}, {kept}: {outcome.reason}")
    console.print(f"champion: {champion}\nchallenger: {outcome.challenger}\nneither was changed")
