"""Read the checkpoints of a run directory."""

import logging
from pathlib import Path
from typing import Any

from refold.errors import ConfigError
from refold.runs.directory import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT

log = logging.getLogger(__name__)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of plain values and tensors onto the CPU.

    Args:
        path: the checkpoint file.

    Returns:
        The content of the checkpoint by name.

    Raises:
        ConfigError: the file cannot be read.
    """
    import torch

    if path.exists() and not path.is_file():  # a pipe or a device may never end
        raise ConfigError(f"{path} cannot be read as a checkpoint: it is not a file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a cut or foreign file fails in the unpickler, in many ways
        reason = str(error).strip().splitlines() or [type(error).__name__]
        if "Weights only load failed" in reason[0]:  # whose advice is to load it all the same
            reason = ["it holds more than plain values and tensors, which are all that is ever loaded"]
        raise ConfigError(f"{path} cannot be read as a checkpoint: {reason[0]}") from None


def usable_checkpoint(path: Path) -> Path:
    """Return the checkpoint to resume from: this one, or `previous.ckpt` if this is a broken `last.ckpt`.

    Args:
        path: a checkpoint file of a run.

    Raises:
        ConfigError: no checkpoint can be read.
    """
    try:
        read_checkpoint(path)
    except ConfigError as error:
        before = path.parents[1] / PREVIOUS_CHECKPOINT
        if path != path.parents[1] / LAST_CHECKPOINT or not before.exists():
            raise
        read_checkpoint(before)
        log.warning("%s; going on from the one before it, %s", error, before.name)
        return before
    return path
