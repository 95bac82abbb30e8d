"""Settings of commands that judge live bars: the detector, its state, and history to begin with."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from refold.config.mistakes import nearest
from refold.errors import ConfigError

if TYPE_CHECKING:
    from refold.live.feed import Feed

CHOSEN = ("score", "threshold", "alignment", "drift", "data")
"""Sections of which settings may be chosen anew, as for `refold score`."""


def open_feed(settings: dict[str, str], own: tuple[str, ...], trust: list[str]) -> "Feed":
    """Load the run, and its live detector from a saved state or a fresh one with history.

    Args:
        settings: of the command line.
        own: keys of the command; `run`, `state`, `every`, `warm` and `trust` are among them.
        trust: packages whose parts the run may build.

    Raises:
        ConfigError: a setting is wrong.
    """
    import torch

    from refold.library.run import load_run
    from refold.live.feed import Feed
    from refold.live.live_detector import LiveDetector

    if "run" not in settings:
        raise ConfigError("run has no value; give one: run=outputs/latest")
    chosen = {key: value for key, value in settings.items() if key not in own}
    for key in chosen:
        if key.partition(".")[0] not in CHOSEN:
            raise ConfigError(f"{key}: there is no such setting{nearest(key, {*own, *CHOSEN})}")
    every = whole_number(settings, "every", 1000)
    if "every" in settings and "state" not in settings:
        raise ConfigError("every has no effect without state=FILE, the file that the state is saved to")
    state = Path(settings["state"]) if "state" in settings else None
    if state is not None and not state.parent.is_dir():
        raise ConfigError(f"state is {state}; there is no folder {state.parent}")
    torch.set_num_threads(1)  # a bar is too little work for several, which wait for each other
    run = load_run(settings["run"], trust=trust)
    log = logging.getLogger("refold.live")
    if state is not None and state.exists():
        live = LiveDetector.load(state, run)
        if chosen:
            log.warning("%s: the state keeps the settings that it began with", ", ".join(chosen))
    else:
        live = run.live(overrides={"alignment": "last", **chosen})
    if live.position:
        log.info("%s: goes on after %s bars", state, f"{live.position:,}")
        if "warm" in settings:
            log.info("warm=%s is left out: the state has a past", settings["warm"])
    elif "warm" in settings:
        log.info("%s bars of history", f"{live.warm(read_table(settings['warm'])):,}")
        live.position = 0  # bars of the feed alone, which a restart counts
    return Feed(live, state, every)


def whole_number(settings: dict[str, str], key: str, default: int, *, least: int = 1, most: int = 10**9) -> int:
    """Read a setting that is a whole number.

    Raises:
        ConfigError: it is none, or out of bounds.
    """
    text = settings.get(key, str(default))
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise ConfigError(f"{key} is {text}; it must be a whole number in [{least}, {most}]")
    return int(text)


def read_table(path: str):
    """Read a CSV or Parquet file of history.

    Raises:
        ConfigError: it cannot be read.
    """
    import polars as pl

    try:
        parquet = path.endswith((".parquet", ".pq"))
        return pl.read_parquet(path) if parquet else pl.read_csv(path, try_parse_dates=True, infer_schema_length=None)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"warm is {path}; it cannot be read: {str(error).splitlines()[0]}") from None
