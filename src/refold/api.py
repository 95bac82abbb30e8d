"""Train, load and compose from Python, through the same functions as the command line."""

import contextlib
import logging
import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from refold.config.arguments import split_settings
from refold.config.build import Parts, build_table, to_plain
from refold.config.compose import CONF, as_overrides, compose_settings, file_overrides, without_hydra
from refold.config.validate import check
from refold.errors import ConfigError, Interrupted, RefoldError
from refold.launch.cluster import find_world
from refold.launch.hardware import find_machine, plan
from refold.launch.worker_process import JOB_LOG_FORMAT
from refold.launch.workers import restored_environment
from refold.library.frames import FrameSource, is_frame, to_polars
from refold.library.run import Run, load_run
from refold.runs.directory import discard_unused
from refold.runs.trust import EVERYTHING

if TYPE_CHECKING:
    import pandas as pd

    from refold.library.challenge import Challenge

    Data = pl.DataFrame | pl.LazyFrame | pd.DataFrame | str | os.PathLike | Mapping[str, Any]

BARS = "bars.parquet"
"""File of a run directory: the bars that a run was trained on, if they came as a table in memory."""

SERIES = "series"
"""Option of data that reads any numbers."""

_LOGGERS = ("refold", "lightning.pytorch", "lightning.fabric")


def compose(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Compose the configuration that `refold train` would run with.

    Args:
        overrides: overrides as typed on the command line, such as "decoder=autoregressive" or "trainer.max_epochs=5".

    Returns:
        Section -> key -> value, as plain dicts and lists; "???" stands for a value that a run must be given.

    Raises:
        ConfigError: a key or an option does not exist. It names the nearest valid one.
    """
    return to_plain(without_hydra(compose_settings(overrides)))


def train(
    bars: "Data | None" = None, /, *, data: "Data | None" = None, overrides: Sequence[str] = (), **groups: Any
) -> Run:
    """Train an autoencoder and return the finished run.

    The run directory is the one that `refold train` would make: outputs/<date>_<decoder>-<layers>-s<seed>-<letters>
    in the working directory.

        run = refold.train(bars, decoder="autoregressive", trainer={"max_epochs": 5})
        verdicts = run.score(new_bars)

    Args:
        bars: a table of polars or pandas, the path of a CSV or Parquet file, or the name of an option of conf/data;
            None: the embedded stocks. Columns are found as those of a CSV file are. May be given as `data=`.
        data: the same, or settings of the section data beside `bars`, such as {"window_size": 16}; "series" beside a
            table or a file reads any numbers of it instead of prices.
        overrides: settings as on the command line, such as "optimizer.lr=3e-4".
        groups: group -> name of one of its options, or keys with values, such as trainer={"max_epochs": 5}; seed=1 and
            other keys of the configuration, too.

    Returns:
        The run, with its detector fitted.

    Raises:
        RefoldError: a setting is wrong, the bars cannot be read, or training fails.
    """
    series = bars is not None and isinstance(data, str) and data == SERIES
    if series:
        data = None
    elif not isinstance(data, Mapping):
        if bars is not None and data is not None:
            raise ConfigError("the bars are given twice, as the first argument and as data")
        bars, data = (bars if data is None else data), None
    frame = to_polars(bars) if is_frame(bars) else None
    chosen = _data_overrides(bars, series=series)
    settings = as_overrides({**groups, **({"data": data} if data else {})}, [*chosen, *overrides])
    given = settings[: len(settings) - len(chosen) - len(overrides)]
    overrides = [*chosen, *given, *overrides]
    cfg = compose_settings([*overrides, *(["data.path=bars.parquet"] if frame is not None else [])])
    run_dir = Path(cfg.hydra.run.dir).absolute()
    choices = {group: option for group, option in cfg.hydra.runtime.choices.items() if "hydra" not in group}
    cfg = without_hydra(cfg)
    if cfg.resume:
        raise ConfigError(f"resume is {cfg.resume}; a run goes on from the command line: refold train resume=...")
    if world := find_world():
        raise ConfigError(f"refold.train starts its own processes: run it without {world.starter}")
    if frame is not None:
        cfg.data.path = str(run_dir / BARS)
        FrameSource(frame, build_table(cfg)).load()  # refused here, under the name that the caller knows
    with _logged(run_dir), _restored_random_state(), restored_environment(), warnings.catch_warnings():
        for category in (UserWarning, FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module="lightning")
        _run(cfg, run_dir, frame, choices=choices, overrides=overrides)
    return load_run(run_dir, trust=EVERYTHING)  # the parts are those that the caller has just trained


def retrain(
    run: "Run | str | os.PathLike", bars: "Data | None" = None, /, *, overrides: Sequence[str] = ()
) -> "Challenge":
    """Train a challenger of a run on newer bars, and compare the two on the newest part that neither was fitted to.

    Nothing is replaced. The challenger's directory is outputs/<date>_retrain-s<seed>-<letters>.

        outcome = refold.retrain(run, "new.csv")
        print(outcome.keep, outcome.reason)

    Args:
        run: the run, or its directory.
        bars: all bars up to now, the old ones too: a table of polars or pandas, or the path of a file; None: the run's
            own source, read anew.
        overrides: settings of trainer and data that the challenger gets, such as "trainer.max_epochs=5".

    Returns:
        Which run to keep and why, the measures of both, and the directory of the challenger.

    Raises:
        RefoldError: a setting is wrong, the bars cannot be read or hold none that are new, or training fails.
    """
    from refold.cli import retrain as command

    champion = run if isinstance(run, Run) else load_run(run)
    run_dir = command.default_directory(champion).absolute()
    given = split_settings(overrides)
    if bars is not None:
        given["data.path"] = str(bars) if isinstance(bars, str | os.PathLike) else str(run_dir / BARS)
    with _logged(run_dir), _restored_random_state(), restored_environment(), warnings.catch_warnings():
        for category in (UserWarning, FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module="lightning")
        if is_frame(bars):
            run_dir.mkdir(parents=True, exist_ok=True)
            to_polars(bars).write_parquet(run_dir / BARS)
        return command.retrain(champion, given, run_dir)


def _data_overrides(bars: Any, *, series: bool) -> list[str]:
    """Return overrides that choose the data: an option, a file, or the run directory's own file for a frame."""
    if bars is None:
        return []
    if is_frame(bars):
        return [f"data={SERIES if series else 'parquet'}", "data.cache=null"]
    if not isinstance(bars, str | os.PathLike):
        raise ConfigError(
            f"the bars are a {type(bars).__name__}; they must be a table of polars or pandas, the path of a file, or "
            f"an option of data, such as 'stocks'"
        )
    text = os.fspath(bars)
    if series:
        return as_overrides({"data": SERIES, "data.path": text})
    if (CONF / "data" / f"{text}.yaml").is_file():
        return [f"data={text}"]
    return file_overrides(text)


def _run(cfg: Any, run_dir: Path, frame: pl.DataFrame | None, *, choices: dict[str, str], overrides: list[str]) -> None:
    """Check the configuration, keep the bars where workers find them, and train."""
    from refold.cli.job import begin
    from refold.cli.train import train_on

    cfg = begin(cfg, run_dir, choices=choices, overrides=overrides, group=None)
    try:
        parts = Parts(cfg)
        for without_effect in check(cfg, parts):
            logging.getLogger("refold").warning(without_effect)
        machine = find_machine()
        hardware = plan(to_plain(cfg.trainer), machine, None)
        cfg.trainer = hardware.settings
        if frame is not None:
            run_dir.mkdir(parents=True, exist_ok=True)
            frame.write_parquet(run_dir / BARS)
        train_on(hardware, cfg, run_dir, cores=machine.cores, world=None, parts=parts)
    except RefoldError as error:
        if getattr(error, "status", 2) == 2:  # the log of a failure is kept, but not the directory of a mistake
            (run_dir / BARS).unlink(missing_ok=True)
            discard_unused(run_dir)
        raise
    except Interrupted as stop:
        raise KeyboardInterrupt(str(stop)) from None  # as a notebook expects it


class _Forward(logging.Handler):
    """Hand records on to the handlers of the caller, from the level on that the caller chose."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger().handle(record)


@contextlib.contextmanager
def _logged(run_dir: Path) -> Iterator[None]:
    """Write what training logs into the run's train.log; the caller's loggers stay as they are and hear no more."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    ours = loggers[0]
    forward = _Forward(level=ours.getEffectiveLevel())
    run_dir.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(run_dir / "train.log", delay=True)
    file.setFormatter(logging.Formatter(JOB_LOG_FORMAT))
    ours.handlers = [file, *(ours.handlers), forward]
    ours.setLevel(logging.INFO)
    ours.propagate = False
    try:
        yield
    finally:
        file.close()
        for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.propagate, logger.handlers = propagate, handlers


@contextlib.contextmanager
def _restored_random_state() -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch after the block."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
