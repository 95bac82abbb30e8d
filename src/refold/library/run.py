"""A trained run, loaded from its directory."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from omegaconf import DictConfig

from refold.config.build import build_autoencoder, build_data, build_detector
from refold.errors import ConfigError
from refold.runs.checkpoints import read_checkpoint
from refold.runs.directory import BEST_CHECKPOINT, DETECTOR, RESOLVED, read_settings

if TYPE_CHECKING:
    from refold.data import Scaler
    from refold.models import Autoencoder
    from refold.scoring.detector import Detector


class Run(NamedTuple):
    """A trained run: its directory, its configuration, what turns prices into reconstructions, and what judges those.

    detector: fitted; None if the run has not come to its end, or is of a version that had none.
    """

    directory: Path
    config: DictConfig
    autoencoder: "Autoencoder"
    scaler: "Scaler"
    features: list[str]
    detector: "Detector | None"


def load_run(path: str | os.PathLike) -> Run:
    """A run from its directory: the weights of best.ckpt, in evaluation mode on the CPU, and the scaler it came with.

    Args: path: a run directory, such as "outputs/latest".
    Raises: ConfigError: the directory, its resolved.yaml or its checkpoint is not there.
    """
    from refold.data import Scaler

    directory = Path(path).resolve()
    settings, weights = directory / RESOLVED, directory / BEST_CHECKPOINT
    for needed in (directory, settings, weights):
        if not needed.exists():
            raise ConfigError(f"{path} is not a finished run: there is no {needed}")
    cfg, checkpoint = read_settings(settings), read_checkpoint(weights)
    data = checkpoint["WindowDataModule"]
    scaler = Scaler.from_state_dict(data["scaler"])
    try:
        autoencoder = build_autoencoder(cfg, num_features=len(scaler.mean))
    except ConfigError as error:
        raise ConfigError(f"{settings} does not build a model; is it of another version of refold? {error}") from None
    prefix = "autoencoder."
    state = {
        key.removeprefix(prefix): value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)
    }
    try:
        autoencoder.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(f"{weights} does not fit {settings}; is it of another version of refold? {reason}") from None
    autoencoder.eval()
    detector = None
    if (directory / DETECTOR).exists():
        detector = build_detector(cfg, autoencoder, build_data(cfg), scaler, columns=[])
        detector.load_state_dict(read_checkpoint(directory / DETECTOR))
    return Run(directory, cfg, autoencoder, scaler, list(data["features"]), detector)
