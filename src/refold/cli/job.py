"""Start and end of a training job: composed by Hydra, joined as a process of a job, refused, or interrupted."""

import contextlib
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

import refold
from refold.cli import sweep
from refold.cli.command import CONF, exit_status, print_mistake, trusted, unforeseen
from refold.config.arguments import hide_arguments, quoted_mark, resume_arguments
from refold.config.explain import explain
from refold.errors import ConfigError, Interrupted, RefoldError
from refold.launch import cluster
from refold.launch.hardware import Machine, Plan, adopt, find_machine, plan
from refold.launch.worker_process import is_worker, run_worker
from refold.runs.checkpoints import usable_checkpoint
from refold.runs.directory import LAST_CHECKPOINT, LOG, RESOLVED, discard_unused, identify
from refold.runs.resume import Resume, resume_command
from refold.runs.settings import hide_secrets, to_plain
from refold.runs.state import lock_run, record_refusal
from refold.runs.trust import EVERYTHING
from refold.secrets import redact

log = logging.getLogger("refold")

BUSY_GPU = 64
"""Windows at once below which a job on several GPUs is told of `data.batch_size_per_device`: what one GPU gets."""

RunJob = Callable[[DictConfig, Path], float]
"""(configuration from Hydra, run directory) -> the monitored value."""

Train = Callable[[DictConfig, Path], dict[str, Any] | None]
"""(checked configuration, run directory) -> what result.json holds, on the first process."""


# ---- start ----------------------------------------------------------------------------------------------------------


def start(arguments: list[str], run_composed: Callable[[DictConfig], float], train: Train) -> None:
    """Compose and run a job or a sweep, or take part in a job that another process composed.

    Args:
        arguments: the words of the command line, without the program's name.
        run_composed: runs one job that Hydra composed.
        train: the function that each process of a job runs.

    Raises:
        RefoldError: the job is refused, or failed.
        Interrupted: ctrl-C, SIGTERM, or a job that failed where sweep.stop_on_failure is true.
    """
    world = cluster.find_world()
    arguments = [quoted_mark(argument) for argument in hide_arguments(arguments)]
    if arguments[:1] == ["--job"]:
        others = dict(argument.split("=", 1) for argument in arguments[2:] if argument.startswith("trust="))
        if len(arguments) < 2 or len(arguments) > 2 + len(others):
            raise ConfigError(
                "--job takes a resolved.yaml and nothing else but trust=PACKAGE; resume=DIRECTORY goes on with settings"
            )
        run_worker(Path(arguments[1]).resolve(), lambda cfg, run_dir: join(cfg, run_dir, train), trusted(others))
    elif world and world.rank > 0:
        if run_dir := cluster.wait_for_run():
            # the first process composed it, from the same command line
            run_worker(run_dir / RESOLVED, lambda cfg, run_dir: join(cfg, run_dir, train), EVERYTHING)
    else:
        try:
            sys.argv[1:] = resume_arguments(sorted(arguments, key=lambda text: text not in ("-m", "--multirun")))
            if world and sys.argv[1:2] in (["-m"], ["--multirun"]):
                raise ConfigError(f"-m starts its own processes: run a sweep without {world.starter}")
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(run_composed)()
        finally:
            if world:
                cluster.dismiss(world)
            sweep.print_sweep_outcome()


def join(cfg: DictConfig, run_dir: Path, train: Train) -> None:
    """Run one process of a job that torchrun, srun, a user or this program's own launcher started on resolved.yaml."""
    if is_worker():
        train(cfg, run_dir)
        return
    world = cluster.find_world() or cluster.World(rank=0, processes=1, nodes=1, starter="this command")
    cfg.trainer = adopt(to_plain(cfg.trainer), world)
    with lock_run(run_dir) if world.rank == 0 else contextlib.nullcontext():
        result = train(cfg, run_dir)
    print_result(result, run_dir)


def run_and_report(cfg: DictConfig, run_job: RunJob) -> float:
    """Run one job that Hydra composed, and print the reason if it fails.

    Args:
        cfg: configuration of the job.
        run_job: runs it.

    Returns:
        The monitored value, for a sweeper to minimise.
    """
    hydra_config = HydraConfig.get()
    run_dir = Path(hydra_config.runtime.output_dir)
    sweeping = is_part_of_sweep()
    try:
        try:
            return run_job(cfg, run_dir)
        except Exception as error:
            if isinstance(error, RefoldError) or explain(error, CONF):
                raise
            raise unforeseen(error, run_dir / LOG) from error
    except RefoldError as error:
        if not sweeping:
            if not cfg.resume and exit_status(error) == 2:  # the log of a failure is kept
                discard_unused(run_dir)
            sys.exit(print_mistake(error))  # past Hydra, which would add lines of its own
        number, name = hydra_config.job.num, hydra_config.job.override_dirname
        print(f"job {number}, {name}, failed: {redact(str(error))}", file=sys.stderr)
        if not (run_dir / RESOLVED).exists():
            record_refusal(run_dir, error)
        if cfg.sweep.stop_on_failure:
            raise Interrupted("sweep.stop_on_failure is true: the sweep ends here", exit_status(error)) from error
        raise
    except Interrupted as stop:
        hint = f". Go on with: {resume_command(run_dir)}" if (run_dir / LAST_CHECKPOINT).exists() else ""
        if sweeping:
            hint = ". The same command goes on with the sweep" if cfg.sweep.skip_finished else ""
        raise Interrupted(f"{stop}{hint}") from None


# ---- one job, step by step ------------------------------------------------------------------------------------------


def is_part_of_sweep() -> bool:
    """Return True if Hydra runs this job as one of a sweep."""
    return HydraConfig.get().mode is RunMode.MULTIRUN


def identify_job(cfg: DictConfig, run_dir: Path) -> DictConfig:
    """Give a fresh job its id, or read the configuration of the run that it goes on with.

    Args:
        cfg: configuration from Hydra.
        run_dir: directory of this job.

    Returns:
        The configuration to check and run.

    Raises:
        ConfigError: the run to go on with is not there, or other settings of it are asked for.
    """
    hide_secrets(cfg)
    hydra_config = HydraConfig.get()
    overrides = [str(text) for text in hydra_config.overrides.task]
    if cfg.resume:
        resume = Resume(cfg.resume)
        if resume.directory != run_dir.resolve():  # it came another way than `resume_arguments` looks at
            raise ConfigError(
                f"resume is {cfg.resume}; give it on the command line, as resume={cfg.resume}, without ++"
            )
        cfg = resume.config(overrides, [cfg.trust] if isinstance(cfg.trust, str) else cfg.trust or ())
        cfg.resume = str(resume.checkpoint)
        return cfg
    choices = {name: value for name, value in hydra_config.runtime.choices.items() if "hydra" not in name}
    group = run_dir.parent.name if is_part_of_sweep() else None
    return begin(cfg, run_dir, choices=choices, overrides=overrides, group=group)


def begin(
    cfg: DictConfig, run_dir: Path, *, choices: dict[str, str], overrides: list[str], group: str | None
) -> DictConfig:
    """Complete the configuration of a fresh run, in place.

    Args:
        cfg: the composed configuration, without Hydra's section.
        run_dir: the run directory, which gives the run its id.
        choices: chosen option by group.
        overrides: the overrides that were given on the command line.
        group: name of the sweep that the run is a job of; None: of none.

    Returns:
        The configuration.
    """
    with open_dict(cfg):
        cfg.resume = None
        cfg.run = {
            "version": refold.__version__,
            "id": identify(run_dir),
            "group": group,
            "choices": choices,
            "overrides": overrides,
            "settings": None,
        }
        if not OmegaConf.is_missing(cfg.data, "path") and cfg.data.get("path"):
            cfg.data.path = os.path.abspath(os.path.expanduser(cfg.data.path))  # a run resumes from any folder
    return cfg


def plan_hardware(cfg: DictConfig) -> tuple[Plan, Machine, cluster.World | None]:
    """Write into the trainer's settings what each `auto` means on this machine.

    Args:
        cfg: checked configuration; its `trainer` section is changed.

    Returns:
        The plan, this machine, and the processes that torchrun or srun started, if they did.

    Raises:
        ConfigError: the machine lacks something that the settings ask for.
    """
    world = cluster.find_world()
    if world and is_part_of_sweep():
        raise ConfigError(f"a sweep starts its own processes: run it without {world.starter}")
    machine = find_machine()
    hardware = plan(to_plain(cfg.trainer), machine, world)
    cfg.trainer = hardware.settings
    return hardware, machine, world


def announce_job(hardware: Plan, world: cluster.World | None, run_dir: Path) -> None:
    """Log what the plan says of the hardware, and name the run directory to processes that wait for it."""
    for note in hardware.notes:
        log.info(note)
    for warning in hardware.warnings:
        log.warning(warning)
    if world:
        cluster.announce_run(run_dir)


def seed(cfg: DictConfig) -> None:
    """Seed every generator, and find the checkpoint to go on with, before anything is built."""
    import lightning

    for name in ("lightning.pytorch", "lightning.fabric", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they repeat what our own first lines say
    if cfg.resume:  # refused here, if it is broken, and not inside the trainer
        cfg.resume = str(usable_checkpoint(Path(cfg.resume)))
    lightning.seed_everything(cfg.seed, verbose=False)


def log_training(cfg: DictConfig, trainer: Any, data: Any) -> None:
    """Log what is about to be trained: hardware, windows per step, and the data."""
    processes, accelerator = trainer.world_size, cfg.trainer.accelerator
    batch = data.global_batch_size(processes)
    log.info(
        "%s: %s x %s, strategy %s, precision %s, %d windows per optimizer step over all, %d at once on each",
        *(cfg.run.id, processes, accelerator, cfg.trainer.strategy, trainer.precision),
        *(batch * cfg.trainer.accumulate_grad_batches, math.ceil(batch / processes)),
    )
    if accelerator == "gpu" and processes > 1 and batch / processes < BUSY_GPU:
        log.warning(
            "%d windows at once on each of %d GPUs leave them idle most of the time: data.batch_size_per_device=%d "
            "gives each more to do, and the learning rate follows",
            *(math.ceil(batch / processes), processes, BUSY_GPU),
        )
    log.info(data.description)


def print_result(result: dict[str, Any] | None, run_dir: Path) -> None:
    """Print the summary of a run on its first process, which has the result."""
    if result:
        from refold.report.summary import print_summary

        print_summary(result, run_dir)
