"""The state of a live detector as a file: written whole or not at all, read as plain values and tensors."""

import io
import os
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from refold.errors import ConfigError
from refold.scoring.budget import Pace
from refold.scoring.discoveries import Block
from refold.scoring.tails import Tail

if TYPE_CHECKING:
    from refold.live.live_detector import LiveDetector

FORMAT = 1
"""Of the file."""

WHAT = "a state of live bars"

MEMORIES: dict[str, Any] = {memory.__name__: memory for memory in (Block, Pace)}
"""Names and classes of the states that thresholds keep of an asset's bars."""


class GoesLive(Protocol):
    """A run that a state can be loaded for; `refold.load_run` gives one."""

    def live(
        self, *, overrides: Mapping[str, Any] | None = None, fitted: Mapping[str, Any] | None = None
    ) -> "LiveDetector":
        """Return a live detector without a past.

        Args:
            overrides: settings that were chosen anew.
            fitted: state of the score and threshold that were fitted for them; None: the run's own.
        """
        ...


def save(live: "LiveDetector", path: Path) -> None:
    """Write the state of a detector.

    Raises:
        ConfigError: the file cannot be written.
    """
    content = {
        "what": WHAT,
        "format": FORMAT,
        "version": version("refold"),
        "run": live.origin.run,
        "settings": dict(live.origin.settings),
        "fitted": live.origin.fitted,
        "clock": live.clock.kind,
        "position": live.position,
        "counts": dict(live.counts),
        "columns": list(live.reader.columns),
    }
    if live.drift is not None:
        content["drift"] = {name: torch.from_numpy(array) for name, array in live.drift.state().items()}
    if live.past is not None:
        past, used = live.past, len(live.past)
        peers = live.peers
        content |= {
            "names": list(past.names),
            "arrays": {name: torch.from_numpy(array[:used].copy()) for name, array in past.arrays.items()},
            "memories": [[_plain(one) for one in both] for both in past.memories],
            "peaks": [torch.from_numpy(np.ascontiguousarray(peaks)) for peaks in past.peaks],
            "peers": [torch.from_numpy(part[: peers.used].copy()) for part in (peers.times, peers.counts)],
        }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise ConfigError(f"the state {path} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path, run: GoesLive) -> "LiveDetector":
    """Read the state of a detector.

    Raises:
        ConfigError: the file is not there, is truncated, or is of another run or version.
    """
    content = _read(path)
    if content.get("format") != FORMAT or content.get("version") != version("refold"):
        raise ConfigError(
            f"{path} was written by refold {content.get('version')}; this is {version('refold')}, which reads its own "
            f"states alone: begin anew, with warm and the bars of the last days"
        )
    try:
        live = run.live(overrides=content["settings"], fitted=content["fitted"])
        if live.origin.run != content["run"]:
            raise ConfigError(f"{path} is the state of another run: load it with the run that it was saved with")
        _restore(live, content)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise ConfigError(f"{path} is spoilt ({str(error).splitlines()[0]:.200}): begin anew") from None
    return live


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"there is no state {path}; save writes one")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a cut or foreign file fails in the unpickler, in many ways
        content = None
    if not isinstance(content, dict) or content.get("what") != WHAT:
        raise ConfigError(f"{path} is truncated, or is no state that LiveDetector.save wrote: begin anew")
    return content


def _restore(live: "LiveDetector", content: Mapping[str, Any]) -> None:
    """Put a state into a detector without a past.

    Raises:
        Exception: of Python, NumPy or torch, for values of other types and shapes.
    """
    live.clock.kind = content["clock"]
    live.position = int(content["position"])
    if live.drift is not None:
        live.drift.load_state(content["drift"])
    live.counts.update({str(name): int(count) for name, count in content["counts"].items()})
    columns = tuple(map(str, content["columns"]))
    if "names" not in content:
        live.reader.columns = columns
        return
    if not set(live.maker.columns) <= set(columns):
        raise ValueError(f"its columns are {', '.join(columns)}")
    live.reader.columns = columns
    past = live.history
    for name in content["names"]:
        past.place(str(name))
    for name, array in past.arrays.items():
        stored = content["arrays"][name].numpy()
        if stored.dtype != array.dtype or stored.shape != (len(past), *array.shape[1:]):
            raise ValueError(f"{name} has shape {stored.shape}")
        array[: len(past)] = stored
    past.peaks = [peaks.numpy().copy() for peaks in content["peaks"]]
    past.memories = [(_memory(oldest), _memory(newest)) for oldest, newest in content["memories"]]
    if len(past.peaks) != len(past) or len(past.memories) != len(past):
        raise ValueError("a tail lacks")
    live.traits.add(past.names)
    _restore_peers(live, content["peers"])


def _plain(memory: Any) -> dict[str, Any] | None:
    """Return what a threshold knows as plain values and tensors."""
    if memory is None or isinstance(memory, Tail):  # SPOT's is among the arrays
        return None
    if type(memory).__name__ not in MEMORIES:
        raise ConfigError(f"the threshold keeps a {type(memory).__name__}; a state holds {', '.join(MEMORIES)}")
    parts = {field.name: getattr(memory, field.name) for field in fields(memory)}
    for name, part in parts.items():
        parts[name] = torch.from_numpy(part.copy()) if isinstance(part, np.ndarray) else part
    return {"kind": type(memory).__name__, **parts}


def _memory(plain: Mapping[str, Any] | None) -> Any:
    """Return what `_plain` made plain."""
    if plain is None:
        return None
    parts = {name: part.numpy() if isinstance(part, torch.Tensor) else part for name, part in plain.items()}
    return MEMORIES[str(parts.pop("kind"))](**parts)


def _restore_peers(live: "LiveDetector", stored: list[torch.Tensor]) -> None:
    times, counts = (part.numpy() for part in stored)
    peers = live.peers
    used = peers.used = len(times)
    peers.times[:used], peers.counts[:used] = times, counts
