"""Refuse a model that is larger than this machine's memory, before any of that memory is used."""

import os
import warnings
from typing import Any

from omegaconf import DictConfig, OmegaConf

from refold.config.build import build_autoencoder
from refold.runs.settings import override

BYTES_PER_WEIGHT = 16
"""float32: the weight, its gradient, and the two moments of Adam."""

_SIZES = {"encoder": "encoder.hidden_size", "decoder": "decoder.hidden_size", "bridge": "bridge.latent_dim"}


def refuse_too_large(cfg: DictConfig) -> str | None:
    """Say which size makes a model larger than this machine's memory, and what it may be.

    Args:
        cfg: a configuration whose types and bounds have been checked.

    Returns:
        A message that names key, value and bound; None if the model fits.

    Raises:
        ConfigError: a constructor refuses the settings.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = _bytes_by_part(cfg)
    if sum(needed.values()) <= memory:
        return None
    key = _SIZES[max((name for name in _SIZES if name in needed), key=lambda name: needed[name])]
    value = OmegaConf.select(cfg, key, default=None)
    if not isinstance(value, int):  # a part of one's own, with sizes of its own
        return None
    fitting, beyond = 0, value  # the largest value that fits is sought between them
    while beyond - fitting > max(1, fitting // 100):
        middle = (fitting + beyond) // 2
        if sum(_bytes_by_part(override(cfg, f"{key}={middle}")).values()) <= memory:
            fitting = middle
        else:
            beyond = middle
    total = sum(needed.values())
    size = f"{total / 2**30:,.0f} GiB" if total < 2**80 else "more memory than can be counted"
    bound = f"it must be at most {fitting}" if fitting else "other sizes are too large as well"
    return f"{key} is {value}; training the model takes {size} and this machine has {memory / 2**30:,.0f}: {bound}"


def _bytes_by_part(cfg: DictConfig) -> dict[str, int]:
    """Return the bytes that training each part of the model takes; the model is built of shapes, without values."""
    import torch

    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")  # torch's own about settings that the check refuses
            model: Any = build_autoencoder(cfg, num_features=max(1, len(cfg.data.features or ())))
    except RuntimeError as error:
        if "overflow" not in str(error):  # a part of one's own that needs values in its constructor
            return {}
        return {name: OmegaConf.select(cfg, key, default=1) * 2**80 for name, key in _SIZES.items()}
    return {
        name: BYTES_PER_WEIGHT * sum(weight.numel() for weight in part.parameters())
        for name, part in model.named_children()
    }
