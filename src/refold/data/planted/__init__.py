"""Errors of price feeds, and real moves beside them, planted into copies of bars. One class and one YAML each."""

from refold.data.planted.feed_errors import (
    BadTick,
    LevelShift,
    OpenTick,
    OtherAsset,
    PriceUnit,
    RepeatedBar,
    Split,
    Stale,
    SwappedFields,
    VolumeUnit,
    WholeBar,
    Wick,
)
from refold.data.planted.kinds import Kind, PlantedBars, Sized
from refold.data.planted.plant import Planted, errors_to_learn, plant, usable_kinds, with_nulls
from refold.data.planted.real import Crash, FlashCrash, HalfDay, Halt, RealJump

__all__ = [
    "BadTick",
    "Crash",
    "FlashCrash",
    "HalfDay",
    "Halt",
    "Kind",
    "LevelShift",
    "OpenTick",
    "OtherAsset",
    "Planted",
    "PlantedBars",
    "PriceUnit",
    "RealJump",
    "RepeatedBar",
    "Sized",
    "Split",
    "Stale",
    "SwappedFields",
    "VolumeUnit",
    "WholeBar",
    "Wick",
    "errors_to_learn",
    "plant",
    "usable_kinds",
    "with_nulls",
]
