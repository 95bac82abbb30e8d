"""What a trainer's settings mean on the machine at hand: device, number of processes, precision."""

import os
from dataclasses import dataclass
from typing import Any

from refold.errors import ConfigError


@dataclass(frozen=True)
class Machine:
    """What was found. `bf16`: the GPUs compute in bfloat16."""

    gpus: int
    cores: int
    bf16: bool


@dataclass(frozen=True)
class Plan:
    """The trainer's settings made definite, the number of processes, and what to tell the user."""

    settings: dict[str, Any]
    processes: int
    notes: tuple[str, ...]


def find_machine() -> Machine:
    """Ask torch and the operating system; imports torch."""
    import torch

    gpus = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(gpus=gpus, cores=cores, bf16=gpus > 0 and torch.cuda.is_bf16_supported())


def plan(trainer: dict[str, Any], machine: Machine) -> Plan:
    """Replace every `auto` of `accelerator`, `devices`, `strategy` and `precision` by what it means on this machine.

    Args: trainer: settings whose types have been checked.
    Raises: ConfigError: what was asked for is not there; the message says what is, and the override that would run.
    """
    accelerator = trainer["accelerator"]
    if accelerator == "auto":
        accelerator = "gpu" if machine.gpus else "cpu"
    on_gpu = accelerator == "gpu"
    if on_gpu and not machine.gpus:
        raise ConfigError("trainer.accelerator is gpu; this machine has no GPU: run with trainer=cpu")
    devices = _devices(trainer["devices"], on_gpu, machine)
    processes = len(devices) if isinstance(devices, list) else devices
    strategy = trainer["strategy"]
    if strategy == "auto" and processes > 1:
        strategy = "ddp"
    notes = []
    if not on_gpu and processes > 1:
        where = "No GPU is found here" if trainer["accelerator"] == "auto" else "trainer.accelerator is cpu"
        notes.append(f"{where}: training in {processes} CPU processes on {machine.cores} cores")
        if processes > machine.cores:
            notes[0] += ", so they share cores and none is faster than one alone"
    precision = _precision(trainer["precision"], on_gpu, machine)
    resolved = {"accelerator": accelerator, "devices": devices, "strategy": strategy, "precision": precision}
    return Plan({**trainer, **resolved}, processes, tuple(notes))


def _devices(devices: int | str | list[int], on_gpu: bool, machine: Machine) -> int | list[int]:
    """A number, or the numbers of GPUs."""
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
    if on_gpu and devices > machine.gpus:
        raise ConfigError(
            f"trainer.devices is {devices}; this machine has {gpus}: run with trainer.devices={machine.gpus}, or with "
            f"trainer.accelerator=cpu for {devices} CPU processes"
        )
    return devices


def _precision(precision: str, on_gpu: bool, machine: Machine) -> str:
    if precision == "auto":
        if not on_gpu:
            return "32-true"
        return "bf16-mixed" if machine.bf16 else "16-mixed"
    if not on_gpu and precision == "16-mixed":
        # Lightning would turn it into bf16-mixed without a word
        raise ConfigError("trainer.precision is 16-mixed; a CPU has no float16: run with trainer.precision=bf16-mixed")
    return precision
