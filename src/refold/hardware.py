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
    """The trainer's settings made definite, the number of processes on this machine, and what to tell the user."""

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

    Raises: ConfigError: what was asked for is not there; the message says what is, and the override that would run.
    """
    accelerator = trainer["accelerator"]
    if accelerator == "auto":
        accelerator = "gpu" if machine.gpus else "cpu"
    if accelerator in ("gpu", "cuda") and not machine.gpus:
        raise ConfigError(f"trainer.accelerator is {accelerator}; this machine has no GPU: run with trainer=cpu")
    on_gpu = accelerator in ("gpu", "cuda")
    devices, processes = _devices(trainer["devices"], on_gpu, machine)
    strategy = trainer["strategy"]
    if strategy == "auto" and processes * trainer["num_nodes"] > 1:
        strategy = "ddp"
    precision = _precision(trainer["precision"], on_gpu, machine)
    notes = []
    if not on_gpu and processes > 1:
        where = "No GPU is found here" if trainer["accelerator"] == "auto" else "trainer.accelerator is cpu"
        notes.append(f"{where}: training in {processes} CPU processes on {machine.cores} cores")
        if processes > machine.cores:
            notes[0] += ", so they share cores and none is faster than one alone"
    resolved = {"accelerator": accelerator, "devices": devices, "strategy": strategy, "precision": precision}
    return Plan({**trainer, **resolved}, processes, tuple(notes))


def _devices(devices: int | str | list[int], on_gpu: bool, machine: Machine) -> tuple[int | list[int], int]:
    """What Lightning is to be given, and how many processes that is."""
    if isinstance(devices, str) and devices != "auto":
        try:
            numbers = [int(part) for part in devices.split(",") if part.strip()]
        except ValueError:
            raise ConfigError(f"trainer.devices is {devices!r}; it must be a number, auto, or GPU numbers") from None
        devices = numbers if "," in devices else numbers[0]
    if devices in ("auto", -1):
        devices = machine.gpus if on_gpu else 1
    if isinstance(devices, list):
        missing = [number for number in devices if number not in range(machine.gpus)]
        if on_gpu and (missing or not devices):
            raise ConfigError(
                f"trainer.devices is {devices}; this machine has {_count(machine.gpus)}, "
                f"numbered from 0: run with trainer.devices={machine.gpus}"
            )
        return (devices, len(devices)) if on_gpu else (len(devices), len(devices))
    if devices < 1:
        raise ConfigError(f"trainer.devices is {devices}; it must be at least 1, or auto for all GPUs")
    if on_gpu and devices > machine.gpus:
        raise ConfigError(
            f"trainer.devices is {devices}; this machine has {_count(machine.gpus)}: run with trainer.devices="
            f"{machine.gpus}, or with trainer.accelerator=cpu for {devices} CPU processes"
        )
    return devices, devices


def _precision(precision: str, on_gpu: bool, machine: Machine) -> str:
    if precision == "auto":
        if not on_gpu:
            return "32-true"
        return "bf16-mixed" if machine.bf16 else "16-mixed"
    if not on_gpu and str(precision).startswith("16"):
        # Lightning would turn it into bf16-mixed without a word
        raise ConfigError(
            f"trainer.precision is {precision}; a CPU has no float16: run with trainer.precision=bf16-mixed"
        )
    return precision


def _count(gpus: int) -> str:
    return f"{gpus} GPU{'s' * (gpus != 1)}"
