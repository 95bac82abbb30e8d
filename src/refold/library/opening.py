"""Read the parts of a run from its directory, and refuse what is not whole."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from refold.config.build import build_autoencoder, build_detector, build_recipe
from refold.config.memory import refuse_too_large
from refold.errors import ConfigError, first_line
from refold.runs.checkpoints import read_checkpoint
from refold.runs.directory import BEST_CHECKPOINT, DETECTOR, RESOLVED
from refold.runs.settings import read_settings

if TYPE_CHECKING:
    from refold.data import Scaler
    from refold.data.bars.entries import Entry
    from refold.data.bars.expected import Timetables
    from refold.models import Autoencoder
    from refold.scoring.detector import Detector

SECTIONS = ("data", "data.source", "data.source.table", "data.checks", "score", "threshold")
"""Settings of a run that are mappings, where there are any."""

SPOILT = (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError, ArithmeticError)
"""Errors that values of other keys, types and shapes raise when they are used."""


class RunParts(NamedTuple):
    """The parts of a run, in the order in which `Run` takes them."""

    directory: Path
    config: DictConfig
    autoencoder: "Autoencoder"
    scaler: "Scaler"
    features: list[str]
    detector: "Detector | None"
    entries: "list[Entry]"


def _told(error: Exception) -> str:
    """Say what is wrong with a file whose content is of other keys, types or shapes."""
    told = f"lacks {error}" if isinstance(error, KeyError) else f"is spoilt: {first_line(error)}"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in told)


def open_run_directory(path: Any, trust: Sequence[str]) -> RunParts:
    """Read the parts of a run; see `refold.load_run`.

    Raises:
        ConfigError: the directory, its resolved.yaml or its checkpoint is not there, or is not what a run writes.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"the run is a {type(path).__name__}; it must be the path of a run directory")
    directory = Path(path).resolve()
    settings, weights = directory / RESOLVED, directory / BEST_CHECKPOINT
    for needed in (directory, settings, weights):
        if not os.path.exists(needed):  # False also where nobody may look
            raise ConfigError(f"{path} is not a finished run: there is no {needed}")
    cfg = read_settings(settings, trust)
    for key in SECTIONS:
        if not isinstance(OmegaConf.select(cfg, key, default={}), Mapping | DictConfig):
            raise ConfigError(f"{settings}: {key} is no section of settings; a run has one there")
    size = OmegaConf.select(cfg, "data.window_size")
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f"{settings}: data.window_size is {size!r}; it must be a whole number of at least 1")
    autoencoder, scaler, features, entries, timetables = _read_model(cfg, settings, weights)
    detector = _read_detector(cfg, directory / DETECTOR, autoencoder, scaler, entries, timetables)
    return RunParts(directory, cfg, autoencoder, scaler, features, detector, entries)


def _read_model(
    cfg: DictConfig, settings: Path, weights: Path
) -> "tuple[Autoencoder, Scaler, list[str], list[Entry], Timetables]":
    """Read the trained model, its scale, its features and the timetables of its bars."""
    from refold.data import Scaler
    from refold.data.bars.expected import Timetables

    checkpoint = read_checkpoint(weights)
    try:
        data, parameters = checkpoint["WindowDataModule"], checkpoint["state_dict"]
        scaler = Scaler.from_state_dict(data["scaler"])
        features, entries = list(data["features"]), list(data["entries"])
        timetables = Timetables.from_plain(data["timetables"])
        if scaler.mean.ndim != 1 or scaler.mean.shape != scaler.std.shape:
            raise ValueError(f"its scaler has shapes {tuple(scaler.mean.shape)} and {tuple(scaler.std.shape)}")
        if not scaler.mean.isfinite().all() or not (scaler.std.isfinite() & (scaler.std > 0)).all():
            raise ValueError(
                "its scaler has means or deviations that are not finite, or deviations that are not above 0"
            )
        prefix = "autoencoder."
        state = {key.removeprefix(prefix): value for key, value in parameters.items() if key.startswith(prefix)}
    except SPOILT as error:
        raise ConfigError(f"{weights} {_told(error)}; it is no checkpoint that Refold's training wrote") from None
    try:
        if too_large := refuse_too_large(cfg):
            raise ConfigError(too_large)
        autoencoder = build_autoencoder(cfg, num_features=len(scaler.mean))
    except (ConfigError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"{settings} does not build a model; is it of another version of refold? {str(error).splitlines()[0]}"
        ) from None
    try:
        autoencoder.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(f"{weights} does not fit {settings}; is it of another version of refold? {reason}") from None
    if broken := [name for name, value in state.items() if not value.isfinite().all()]:
        raise ConfigError(
            f"{weights} has weights that are NaN or infinite, {broken[0]} among them: its training diverged; train "
            f"again, with a smaller optimizer.lr"
        )
    return autoencoder.eval(), scaler, features, entries, timetables


def _read_detector(
    cfg: DictConfig,
    path: Path,
    autoencoder: "Autoencoder",
    scaler: "Scaler",
    entries: "list[Entry]",
    timetables: "Timetables",
) -> "Detector | None":
    """Read the fitted detector; None if the run did not come to its end."""
    if not path.exists():
        return None
    recipe = build_recipe(cfg, entries)
    recipe = replace(recipe, checks=recipe.checks.knowing(timetables), scale=scaler.kind)
    detector = build_detector(cfg, autoencoder, recipe, scaler, columns=[])
    fitted = read_checkpoint(path)
    try:
        detector.load_state_dict(fitted)
    except SPOILT as error:
        raise ConfigError(f"{path} {_told(error)}; it is no detector that Refold wrote") from None
    return detector
