"""Processes that torchrun or srun started: which of them this one is, and how all of them become one job.

The first process composes the configuration and opens the run directory; the others wait until it names the directory.
"""

import functools
import os
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from refold.errors import RefoldError

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from torch._C._distributed_c10d import TCPStore

WAIT = timedelta(minutes=10)
"""How long the other processes wait for the first one to open the run directory."""

DISMISS_S = 60.0
"""Seconds that the first process waits, before it leaves, until the others have heard whether there is a run."""

LOOPBACK = "127.0.0.1"

_HEARD = "refold/heard"
"""How many of the others have read what the first process wrote."""

_STARTED_BY_OTHERS = {"TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS"}


class World(NamedTuple):
    """All processes that were started together.

    Attributes:
        rank: number of this process, from 0.
        processes: number of processes on all machines.
        nodes: number of machines.
        starter: the program that started them, "torchrun" or "srun".
    """

    rank: int
    processes: int
    nodes: int
    starter: str

    @property
    def per_node(self) -> int:
        """Return the number of processes on each machine."""
        return self.processes // self.nodes


def find_environment() -> "ClusterEnvironment":
    """Return what tells Lightning ranks and addresses: torchrun, a step of srun, or the variables of `Workers`.

    Lightning's own guess would take every process inside a Slurm allocation for one of srun's.
    """
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def find_world() -> World | None:
    """Return the processes that this one was started with, or None if it was started alone.

    Lightning is imported only for a process that was not.
    """
    if not _STARTED_BY_OTHERS & os.environ.keys():
        return None
    environment = find_environment()
    name = type(environment).__name__
    if name == "LightningEnvironment":
        return None
    starter, count = ("torchrun", "GROUP_WORLD_SIZE") if name.startswith("TorchElastic") else ("srun", "SLURM_NNODES")
    nodes = int(os.environ.get(count, 1))
    return World(environment.global_rank(), environment.world_size(), nodes, starter)


def loopback_store(port: int = 0) -> "TCPStore":
    """Open a store of short texts that processes on this machine reach, and no other machine does.

    torch by itself listens on all network devices, whatever the address; it takes a socket that is bound already.

    Args:
        port: 0 takes any free one.

    Returns:
        The store, whose `port` others need; it closes when it is deleted.
    """
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  documented there

    listener = socket.create_server((LOOPBACK, port))
    number = listener.getsockname()[1]
    return TCPStore(LOOPBACK, number, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


@functools.cache
def _shared_store() -> "TCPStore":
    """Return a store that all processes reach: torchrun's own, or one that the first process opens."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  documented there

    environment = find_environment()
    world = find_world()
    own = not _is_shared()
    on_one_machine = own and world is not None and world.nodes == 1
    port = environment.main_port + own  # the port itself is taken when the training starts
    is_master = own and environment.global_rank() == 0
    if on_one_machine and is_master:
        return loopback_store(port)
    address = LOOPBACK if on_one_machine else environment.main_address
    return TCPStore(address, port, is_master=is_master, wait_for_workers=False, timeout=WAIT)


def _is_shared() -> bool:
    """Return whether torchrun has opened a store for all processes."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)


def _key() -> str:
    """Return the key of the run directory in the store; torchrun's restarts have keys of their own."""
    return f"refold/run directory/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"


def announce_run(run_dir: Path) -> None:
    """Tell the other processes the directory of the run, so that they start to train; the first process calls it."""
    _shared_store().set(_key(), str(run_dir))


def dismiss(world: World) -> None:
    """Let the other processes leave if there is no run; the first process calls it before it leaves itself.

    A store of its own closes when it leaves, so it waits until all others have read it, or DISMISS_S seconds.

    Args:
        world: all processes that were started together.
    """
    store = _shared_store()
    if not store.check([_key()]):
        store.set(_key(), "")
    end = time.monotonic() + DISMISS_S
    while not _is_shared() and store.add(_HEARD, 0) < world.processes - 1 and time.monotonic() < end:
        time.sleep(0.1)


def wait_for_run() -> Path | None:
    """Wait until the first process names the directory of the run.

    Returns:
        The directory; None if the first process leaves without a run.

    Raises:
        RefoldError: the first process neither names a directory nor leaves within the time WAIT.
    """
    from torch.distributed import DistError

    try:
        store = _shared_store()
        run_dir = store.get(_key()).decode()
        store.add(_HEARD, 1)
    except DistError as error:
        reason = str(error).splitlines()[0]
        raise RefoldError(f"the first process has not opened a run directory: {reason}") from None
    return Path(run_dir) if run_dir else None
