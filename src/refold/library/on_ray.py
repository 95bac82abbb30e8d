"""Share the assets of a table out among the workers of Ray: one detector in each, a file of results for each shard.

A shard is what one process would have read as one piece, or all pieces of an asset that is longer than one, so that
each result is that of one process, digit by digit. Ray does a shard again whose worker ended.
"""

import importlib.util
import logging
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from refold.data.long.ordered import OrderedBars
from refold.data.long.spool import PartedTable, TableSpool
from refold.errors import ConfigError, RefoldError, first_line
from refold.launch.hardware import PROCESSES_PER_CORE, find_machine
from refold.launch.workers import restored_environment
from refold.library.tally import Counted, Tally
from refold.scoring.detector import Detector
from refold.scoring.latents import scan_latents

ATTEMPTS = 3
"""How often a shard is begun whose worker ends without an answer."""

START_S = 120
"""Seconds in which a first worker must have started."""

STORE_BYTES = 2**28
"""Memory of the object store on this machine. Bars and scores stay in files; what passes through it is small."""

ADDRESS = "RAY_ADDRESS"


class OnRay(NamedTuple):
    """The wish to use Ray.

    Attributes:
        workers: processes that score; None: one for each CPU that Ray has.
    """

    workers: int | None


def read_choice(settings: Mapping[str, str]) -> OnRay | None:
    """Read the settings `on` and `workers` of a command.

    Args:
        settings: of the command line.

    Returns:
        None if this process is to do all by itself.

    Raises:
        ConfigError: a setting is out of bounds or goes with another `on`, or Ray is not installed.
    """
    on, workers = settings.get("on", "local"), settings.get("workers")
    if on not in ("local", "ray"):
        raise ConfigError(f"on is {on!r}; it must be local or ray")
    if on == "local":
        if workers is not None:
            raise ConfigError(f"workers is {workers}; it goes with on=ray: one process does all otherwise")
        return None
    if workers is not None and not (workers.isdecimal() and int(workers)):
        raise ConfigError(f"workers is {workers!r}; it must be a whole number of at least 1")
    if settings.get("device", "auto") == "cuda":
        raise ConfigError("device is 'cuda'; the workers of on=ray use CPUs: device=cpu, or on=local")
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("on is ray, which is not installed: pip install 'refold[ray]'")
    return OnRay(None if workers is None else int(workers))


class Work(Protocol):
    """Do the work on a shard: score its bars, or encode its windows."""

    def __call__(self, bars: OrderedBars, spool: TableSpool) -> Any:
        """Write the rows of some whole assets, and return what else is known of them."""
        ...


@dataclass(frozen=True)
class ScoreAssets:
    """Score the bars of some assets.

    Attributes:
        detector: fitted.
        tally: empty.
        piece: rows at a time.
        hidden: columns that are not written.
    """

    detector: Detector
    tally: Tally
    piece: int
    hidden: tuple[str, ...]

    def __call__(self, bars: OrderedBars, spool: TableSpool) -> Counted:
        """Write the scores, and return what is counted; see `Work`."""
        own = self.tally.of_assets(bars.assets)
        for table in own.scan(self.detector, bars, self.piece):
            spool.add(table.drop(self.hidden))
        return own.counted()


@dataclass(frozen=True)
class EncodeAssets:
    """Encode the windows of some assets.

    Attributes:
        detector: holds the model and the recipe of its windows.
        piece: rows at a time.
    """

    detector: Detector
    piece: int

    def __call__(self, bars: OrderedBars, spool: TableSpool) -> None:
        """Write the codes; see `Work`."""
        for table in scan_latents(self.detector, bars, piece=self.piece):
            spool.add(table)


class Given(NamedTuple):
    """Hold everything that each worker gets once.

    Attributes:
        work: what is to be done.
        bars: the table, in files.
        parts: gets the results.
        scratch: folder for files that are not complete. All machines see these files and folders under one path.
    """

    work: Work
    bars: OrderedBars
    parts: PartedTable
    scratch: Path


class Worker:
    """Do shards, one after the other, in a process of Ray that holds one detector.

    A restarted process fetches what it was given anew: each call has a reference to it, in a list so that Ray hands on
    the reference itself.
    """

    def __init__(self) -> None:
        self.given: Given | None = None

    def start(self, given: list[Any]) -> Given:
        """Fetch what the worker is given, once.

        Raises:
            ConfigError: this machine does not see the folder.
        """
        if self.given is None:
            import ray
            import torch

            torch.set_num_threads(1)  # there is a worker for each CPU
            fetched: Given = ray.get(given[0])
            if not fetched.scratch.is_dir():
                raise ConfigError(
                    f"out is in {fetched.scratch.parents[1]}, which a worker on {os.uname().nodename} does not see; "
                    f"with on=ray it must be in a folder that all machines of the cluster share"
                )
            self.given = fetched
        return self.given

    def ready(self, given: list[Any]) -> None:
        """Answer when the worker can do shards; see `start`."""
        self.start(given)

    def do(self, given: list[Any], first: int, end: int) -> tuple[Any, int]:
        """Do the work for the assets from one number to before another.

        Returns:
            What the work returns, and the number of rows written. The file appears whole or not at all.
        """
        work, bars, parts, scratch = self.start(given)
        with tempfile.TemporaryDirectory(dir=scratch) as own:
            spool = TableSpool(Path(own) / "part.parquet")
            found = work(bars.of_assets(first, end), spool)
            spool.table()
            os.replace(Path(own) / "part.parquet", parts.path(first))
        return found, spool.rows


class Done(NamedTuple):
    """Hold the results of all shards.

    Attributes:
        found: what the work returned, in the order of the table.
        refused: name of each asset that could not be done -> why, in that order.
    """

    found: list[Any]
    refused: dict[str, str]


@contextmanager
def ray_started(choice: OnRay) -> Iterator[int]:
    """Start Ray on this machine, or connect to the cluster that RAY_ADDRESS names; stop it after the block.

    On this machine all its processes listen on loopback alone. Ray sends no statistics of its use.

    Args:
        choice: how many workers.

    Yields:
        The number of workers that can run at once.

    Raises:
        ConfigError: the cluster does not answer, or has too few CPUs.
    """
    address = os.environ.get(ADDRESS) or "local"
    with restored_environment(), _loopback_alone() if address == "local" else nullcontext():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        try:
            _connect(address, choice)
            has = int(ray.cluster_resources().get("CPU", 0))
            if has < (choice.workers or 1):
                raise ConfigError(
                    f"workers is {choice.workers or 1}; each takes a CPU, of which the Ray cluster at {address} has "
                    f"{has}"
                )
            yield choice.workers or has
        finally:
            ray.shutdown()


@contextmanager
def _loopback_alone() -> Iterator[None]:
    """Let Ray take this machine for all there is, so that 127.0.0.1 stays the address that its processes listen on."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER  # was read from that variable if ray had been imported before
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _connect(address: str, choice: OnRay) -> None:
    """Start Ray here, or connect to a cluster."""
    import ray
    from ray.exceptions import RayError

    settings: dict[str, Any] = {}
    if address == "local":
        cores = find_machine().cores
        if (choice.workers or 1) > (most := PROCESSES_PER_CORE * cores):
            raise ConfigError(f"workers is {choice.workers}; it must be at most {most} on {cores} cores")
        settings = {"num_cpus": choice.workers or cores, "object_store_memory": STORE_BYTES}
        settings |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    stopped_by = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **settings)
    except (RuntimeError, ValueError, OSError, RayError) as error:
        raise ConfigError(f"{ADDRESS} is {address}; Ray does not start there: {first_line(error)}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, stopped_by)  # Ray has put its own in the place of ours


def share_out(
    work: Work,
    bars: OrderedBars,
    parts: PartedTable,
    scratch: Path,
    *,
    piece: int,
    workers: int,
    progress: Callable[[int], None],
) -> Done:
    """Do the work for all assets of a table on the workers of Ray.

    Where a shard of several assets is refused, each of them is tried alone.

    Args:
        work: is sent to each worker once.
        bars: in files that all machines see.
        parts: gets a file for each shard.
        scratch: folder for files that are not complete.
        piece: rows of a shard, if it is of several assets.
        workers: how many to start, at least 1.
        progress: gets the number of rows that are done.

    Raises:
        ConfigError: no worker starts.
    """
    import ray

    waiting = deque(bars.shards(piece))
    make: Any = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=ATTEMPTS - 1)(Worker)
    make = make.options(runtime_env={"env_vars": {"POLARS_MAX_THREADS": "1"}})
    given = [ray.put(Given(work, bars, parts, scratch))]
    pool = [make.remote() for _ in range(min(workers, len(waiting)))]
    starting = {one.ready.remote(given): one for one in pool}
    busy: dict[Any, tuple[Any, int, int]] = {}
    found: dict[int, Any] = {}
    refused: dict[int, str] = {}
    idle = [starting.pop(_first_started(starting))]
    while True:
        while idle and waiting:
            worker, (first, end) = idle.pop(), waiting.popleft()
            busy[worker.do.remote(given, first, end)] = worker, first, end
        if not busy:
            names = list(bars.assets)
            return Done([found[n] for n in sorted(found)], {names[n]: refused[n] for n in sorted(refused)})
        ready = ray.wait([*busy, *starting])[0][0]
        if ready in starting:
            _answer(ready)
            idle.append(starting.pop(ready))
            continue
        worker, first, end = busy.pop(ready)
        idle.append(worker)
        answer, why = _answer(ready)
        if why is not None and end - first > 1:
            waiting.extend((number, number + 1) for number in range(first, end))
            continue
        if why is None:
            found[first], rows = answer
            parts.rows += rows
        else:
            refused[first] = why
        progress(int(bars.starts[end] - bars.starts[first]))


def _first_started(starting: Mapping[Any, Any]) -> Any:
    """Wait for the first worker that has started.

    Raises:
        ConfigError: none has after START_S seconds, or it cannot do its work.
    """
    import ray

    done, _ = ray.wait(list(starting), timeout=START_S)
    if not done:
        free = ray.available_resources().get("CPU", 0)
        raise ConfigError(f"no worker of Ray started within {START_S} s; {free:g} of its CPUs are free, each takes one")
    if why := _answer(done[0])[1]:
        raise ConfigError(f"no worker of Ray can start: {why}")
    return done[0]


def _answer(ready: Any) -> tuple[Any, str | None]:
    """Return the answer of a worker, and why there is none if it refuses its bars or ends again and again.

    Raises:
        Exception: an error that nobody foresaw, as it was raised there.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(ready), None
    except RayTaskError as error:
        if not isinstance(error.cause, RefoldError):
            raise error.cause from error
        return None, str(error.cause)
    except RayError as error:
        return None, f"its worker ended {ATTEMPTS} times: {first_line(error)}"
