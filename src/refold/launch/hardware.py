"""Work out what a trainer's settings mean on this machine: device, number of processes, precision."""

import os
from dataclasses import dataclass
from typing import Any

from refold import program
from refold.errors import ConfigError
from refold.launch.cluster import World

CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Names in torch of the instructions by which a CPU multiplies in bfloat16: of x86 the first two, of ARM the last."""
PROCESSES_PER_CORE = 16
"""The most CPU processes of one job per core; each takes some 300 MB, and seconds to start."""


@dataclass(frozen=True)
class Machine:
    """The devices of this machine.

    Attributes:
        gpus: number of GPUs.
        cores: number of CPU cores that this process may use.
        gpu_bf16: whether the GPUs compute in bfloat16.
        cpu_bf16: whether the CPU does.
    """

    gpus: int
    cores: int
    gpu_bf16: bool
    cpu_bf16: bool


@dataclass(frozen=True)
class Plan:
    """The devices, processes and precision with which a job runs on this machine.

    Attributes:
        settings: the trainer's, without `auto`.
        processes: processes of the job, on all machines.
        notes: sentences for the user.
        warnings: sentences to warn the user with.
    """

    settings: dict[str, Any]
    processes: int
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def find_machine() -> Machine:
    """Return the GPUs and CPU cores of this machine; this imports torch."""
    import torch

    gpus = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return Machine(
        gpus=gpus,
        cores=cores,
        gpu_bf16=gpus > 0 and torch.cuda.is_bf16_supported(including_emulation=False),
        cpu_bf16=any(able.get(name, False) for name in CPU_BF16),
    )


def plan(trainer: dict[str, Any], machine: Machine, world: World | None = None) -> Plan:
    """Replace every `auto` of `accelerator`, `devices`, `strategy` and `precision` by what it means on this machine.

    Args:
        trainer: settings whose types have been checked.
        machine: the machine that the job runs on.
        world: the processes that torchrun or srun started; their number decides `devices` and `num_nodes`.

    Returns:
        The settings of the job and its number of processes.

    Raises:
        ConfigError: this machine lacks what was asked for. The message says what is there, and the override that would
            run.
    """
    if world:
        trainer = {**trainer, **_as_started(trainer, world)}
    elif trainer["num_nodes"] > 1:
        script = program.command_words("train").removeprefix("python ").replace("refold train", "-m refold train")
        raise ConfigError(
            f"trainer.num_nodes is {trainer['num_nodes']}; processes on several machines are started by torchrun or "
            f"srun. On each of them: torchrun --nnodes={trainer['num_nodes']} --nproc-per-node={trainer['devices']} "
            f"--rdzv-backend=c10d --rdzv-endpoint=HOST:29500 {script}, and the same settings"
        )
    accelerator = trainer["accelerator"]
    if accelerator == "auto":
        accelerator = "gpu" if machine.gpus else "cpu"
    on_gpu = accelerator == "gpu"
    if on_gpu and not machine.gpus:
        raise ConfigError("trainer.accelerator is gpu; this machine has no GPU: run with trainer=cpu")
    devices = _devices(trainer["devices"], on_gpu, machine)
    processes = (len(devices) if isinstance(devices, list) else devices) * trainer["num_nodes"]
    strategy = trainer["strategy"]
    if strategy == "auto" and processes > 1:
        strategy = "ddp"
    notes, warnings = [], []
    if not on_gpu and processes > 1 and not world:
        where = "No GPU is found here" if trainer["accelerator"] == "auto" else "trainer.accelerator is cpu"
        notes.append(f"{where}: training in {processes} CPU processes on {machine.cores} cores")
        if processes > machine.cores:
            warnings.append(f"{processes} processes share {machine.cores} cores: they are no faster than fewer")
    precision = _precision(trainer["precision"], on_gpu, machine)
    bf16, device = (machine.gpu_bf16, "GPU") if on_gpu else (machine.cpu_bf16, "CPU")
    if trainer["precision"] == "auto":
        has = "computes in bfloat16" if bf16 else "has no bfloat16"
        notes.append(f"trainer.precision is auto: {precision}, since this {device} {has}")
    elif precision == "bf16-mixed" and not bf16:
        other = "16-mixed or 32-true" if on_gpu else "32-true"
        warnings.append(f"trainer.precision is bf16-mixed; this {device} only emulates bfloat16: {other} is faster")
    resolved = {"accelerator": accelerator, "devices": devices, "strategy": strategy, "precision": precision}
    return Plan({**trainer, **resolved}, processes, tuple(notes), tuple(warnings))


def adopt(trainer: dict[str, Any], world: World) -> dict[str, Any]:
    """Return the settings of a composed job for the processes that torchrun or srun started.

    Args:
        trainer: settings, for any number of processes.
        world: the processes that were started.
    """
    strategy = "ddp" if world.processes > 1 else trainer["strategy"]
    return {**trainer, "devices": world.per_node, "num_nodes": world.nodes, "strategy": strategy}


def _as_started(trainer: dict[str, Any], world: World) -> dict[str, int]:
    """Return `devices` and `num_nodes` as torchrun or srun started them; refuse settings that ask for other numbers."""
    settings = {"devices": world.per_node, "num_nodes": world.nodes}
    for name, found in settings.items():
        if trainer[name] not in (1, "auto", found):
            raise ConfigError(
                f"trainer.{name} is {trainer[name]}; {world.starter} started {world.processes} processes on "
                f"{world.nodes} nodes: leave trainer.{name} out, or give {found}"
            )
    return settings


def _devices(devices: int | str | list[int], on_gpu: bool, machine: Machine) -> int | list[int]:
    """Return the number of processes or GPUs, or the list of GPUs; refuse devices that this machine does not have."""
    gpus = f"{machine.gpus} GPU{'s' * (machine.gpus != 1)}"
    if devices == "auto":
        return machine.gpus if on_gpu else 1
    if isinstance(devices, list):
        if not on_gpu:
            raise ConfigError(f"trainer.devices is {devices}; a list names GPUs, on a CPU it must be a number")
        if not devices or not set(devices) <= set(range(machine.gpus)):
            raise ConfigError(
                f"trainer.devices is {devices}; this machine has {gpus}, numbered from 0: run with trainer.devices="
                f"{machine.gpus}"
            )
        return devices
    if isinstance(devices, str):
        raise ConfigError(f"trainer.devices is {devices!r}; it must be auto, a number or a list of GPUs")
    if on_gpu and devices > machine.gpus:
        raise ConfigError(
            f"trainer.devices is {devices}; this machine has {gpus}: run with trainer.devices={machine.gpus}, or with "
            f"trainer.accelerator=cpu for {devices} CPU processes"
        )
    if not on_gpu and devices > PROCESSES_PER_CORE * machine.cores:
        raise ConfigError(
            f"trainer.devices is {devices}; this machine has {machine.cores} core{'s' * (machine.cores != 1)}, and "
            f"more than {PROCESSES_PER_CORE} processes on each only wait: it must be at most "
            f"{PROCESSES_PER_CORE * machine.cores}"
        )
    return devices


def _precision(precision: str, on_gpu: bool, machine: Machine) -> str:
    """Replace `auto` by the best precision of the device; refuse one that a CPU does not have."""
    if precision == "auto":
        if on_gpu:
            return "bf16-mixed" if machine.gpu_bf16 else "16-mixed"
        return "bf16-mixed" if machine.cpu_bf16 else "32-true"
    if not on_gpu and precision == "16-mixed":
        # Lightning would turn it into bf16-mixed without a word
        raise ConfigError("trainer.precision is 16-mixed; a CPU has no float16: run with trainer.precision=bf16-mixed")
    return precision
