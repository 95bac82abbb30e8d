"""Train one LSTM autoencoder: compose -> check -> build -> fit -> test -> summary.

python train.py                                        the embedded stocks, a few minutes on two cores
python train.py decoder=conditional layers=two         other parts; `python train.py --help` lists them
python train.py -m layers=one,two seed=0,1,2           a sweep
python train.py resume=latest                          go on where the newest run stopped
"""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

import refold
from refold.cli import sweep
from refold.cli.command import CONF, help_of_options, report, report_status, run_command
from refold.config import build as config
from refold.config.arguments import resume_arguments
from refold.config.check import check
from refold.errors import ConfigError, Interrupted, RefoldError
from refold.launch import cluster
from refold.launch.hardware import Plan, adopt, find_machine, plan
from refold.launch.workers import (
    interruptible,
    is_worker,
    needs_workers,
    report_ready,
    restored_environment,
    run_worker,
    run_workers,
)
from refold.runs.checkpoints import usable_checkpoint
from refold.runs.directory import (
    FINDINGS,
    LAST_CHECKPOINT,
    RESOLVED,
    discard_unused,
    full_disk_as_refold_error,
    identify,
    open_run,
    refuse_existing_run,
)
from refold.runs.resume import Resume, resume_command
from refold.runs.state import lock_run, record_refusal

log = logging.getLogger("refold")

WORKER = (sys.executable, "-m", "refold", "train")
"""What a process of a job is started with; `--job` and its resolved.yaml follow."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> float:
    """One job, as Hydra composed it. Returns: the monitored value, for a sweeper to minimise."""
    job = HydraConfig.get()
    run_dir = Path(job.runtime.output_dir)
    try:
        return run_job(cfg, run_dir)
    except RefoldError as error:
        if job.mode is not RunMode.MULTIRUN:
            if not cfg.resume and report_status(error) == 2:  # the log of a failure is kept
                discard_unused(run_dir)
            sys.exit(report(error))  # past Hydra, which would add lines of its own
        print(f"\njob {job.job.num}, {job.job.override_dirname}, failed: {error}", file=sys.stderr)
        if not (run_dir / RESOLVED).exists():
            record_refusal(run_dir, error)
        if cfg.sweep.stop_on_failure:
            raise Interrupted("sweep.stop_on_failure is true: the sweep ends here", report_status(error)) from error
        raise
    except Interrupted as stop:
        hint = f". Go on with: {resume_command(run_dir)}" if (run_dir / LAST_CHECKPOINT).exists() else ""
        if job.mode is RunMode.MULTIRUN:
            hint = ". The same command goes on with the sweep" if cfg.sweep.skip_finished else ""
        raise Interrupted(f"{stop}{hint}") from None


def run_job(cfg: DictConfig, run_dir: Path) -> float:
    """Check the configuration, run it on as many processes as it asks for, and print what came out."""
    from refold.report.summary import print_summary

    cfg = prepare(cfg, run_dir)
    for without_effect in check(cfg):
        log.warning(without_effect)
    machine, world = find_machine(), cluster.find_world()
    sweeping = HydraConfig.get().mode is RunMode.MULTIRUN
    if sweeping and world:
        raise ConfigError(f"a sweep starts its own processes: run it without {world.starter}")
    hardware = plan(config.to_plain(cfg.trainer), machine, world)
    cfg.trainer = hardware.settings
    if sweeping:
        cfg, done = sweep.take_up(cfg, run_dir)
        if done:
            return done["metrics"][cfg.checkpoint.monitor]
    result = train_on(hardware, cfg, run_dir, cores=machine.cores, world=world)
    print_summary(result, run_dir)
    return result["metrics"][cfg.checkpoint.monitor]


def train_on(
    hardware: Plan, cfg: DictConfig, run_dir: Path, *, cores: int, world: cluster.World | None
) -> dict[str, Any]:
    """Open the run directory and train in it, here or on processes that are started for it.

    Args:
        hardware: processes, and the trainer's settings for them; the configuration has those already.
        cfg: checked.
        run_dir: the run directory.
        cores: of this machine.
        world: processes that somebody else started, of which this is the first; None: there are none.

    Returns:
        What result.json says.

    Raises:
        RefoldError: a run is there already, or training failed.
    """
    refuse_existing_run(cfg, run_dir)
    with lock_run(run_dir), restored_environment():
        open_run(cfg, run_dir)
        for note in hardware.notes:
            log.info(note)
        for warning in hardware.warnings:
            log.warning(warning)
        if world:
            cluster.announce(run_dir)
        if needs_workers(hardware) and not world:
            return run_workers(WORKER, run_dir, hardware, cores)
        return train(cfg, run_dir)


def run_as_started(cfg: DictConfig, run_dir: Path) -> None:
    """A process of a job that somebody started on its resolved.yaml: torchrun, srun, a user, or we as its worker."""
    from refold.report.summary import print_summary

    if is_worker():
        train(cfg, run_dir)
        return
    world = cluster.find_world() or cluster.World(rank=0, processes=1, nodes=1, starter="this command")
    cfg.trainer = adopt(config.to_plain(cfg.trainer), world)
    with lock_run(run_dir) if world.rank == 0 else contextlib.nullcontext():
        result = train(cfg, run_dir)
    if result:
        print_summary(result, run_dir)


def prepare(cfg: DictConfig, run_dir: Path) -> DictConfig:
    """The configuration of this job: a fresh one gets its id; a resumed run's own is taken up again."""
    hydra_config = HydraConfig.get()
    overrides = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    if cfg.resume:
        resume = Resume(cfg.resume)
        if resume.directory != run_dir.resolve():  # it came another way than `resume_arguments` looks at
            raise ConfigError(
                f"resume is {cfg.resume}; give it on the command line, as resume={cfg.resume}, without ++"
            )
        cfg = resume.config(overrides)
        cfg.resume = str(resume.checkpoint)
        return cfg
    choices = {group: option for group, option in hydra_config.runtime.choices.items() if "hydra" not in group}
    sweep = run_dir.parent.name if hydra_config.mode is RunMode.MULTIRUN else None
    return begin(cfg, run_dir, choices=choices, overrides=overrides, group=sweep)


def begin(
    cfg: DictConfig, run_dir: Path, *, choices: dict[str, str], overrides: list[str], group: str | None
) -> DictConfig:
    """Complete the configuration of a fresh run, in place.

    Args:
        cfg: as composed, without Hydra's section.
        run_dir: the run directory, which gives the run its id.
        choices: group -> chosen option.
        overrides: what was given on the command line.
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


def train(cfg: DictConfig, run_dir: Path) -> dict | None:
    """What every process of a job runs. Returns: the result, on the first process."""
    with interruptible(run_dir), full_disk_as_refold_error(run_dir):
        import lightning

        from refold.library.evaluation import summarise
        from refold.training.loggers import finish_loggers

        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they repeat what our own first lines say
        if cfg.resume:  # refused here, if it is broken, and not inside the trainer
            cfg.resume = str(usable_checkpoint(Path(cfg.resume)))
        lightning.seed_everything(cfg.seed, verbose=False)
        data = config.build_data(cfg)
        data.setup()
        module = config.build_module(cfg, data.num_features)
        if not cfg.resume:  # a checkpoint holds what came of it
            config.start_linear_path(module, data)
        status = 1
        try:
            trainer = config.build_trainer(cfg, run_dir)  # starts the W&B run, which must end whatever comes
            log.info(
                "%s: %s x %s, strategy %s, precision %s, %d windows per optimizer step over all",
                *(cfg.run.id, trainer.world_size, cfg.trainer.accelerator, cfg.trainer.strategy, trainer.precision),
                data.batch_size * cfg.trainer.accumulate_grad_batches,
            )
            log.info(data.description)
            if trainer.is_global_zero:
                data.findings.write_csv(run_dir / FINDINGS)
            report_ready()
            trainer.fit(module, datamodule=data, ckpt_path=cfg.resume, weights_only=True)
            detector = config.build_detector(cfg, module.autoencoder, data.recipe, data.scaler, data.feature_names)
            result = summarise(cfg, run_dir, trainer, module, data, detector, config.build_evaluation(cfg))
            status = 0
        finally:
            finish_loggers(status)
        return result


def command_line() -> int:
    """Run the command line. Returns: exit status."""
    worker = sys.argv[1:2] == ["--job"]
    return run_command(lambda: start(sys.argv[1:]), CONF, says_interrupted=not worker)


def start(arguments: list[str]) -> None:
    """Compose and run, or take part in a job that another process composed."""
    world = cluster.find_world()
    if arguments[:1] == ["--job"]:
        if len(arguments) != 2:
            raise ConfigError("--job takes a resolved.yaml and nothing else; resume=DIRECTORY goes on with settings")
        run_worker(Path(arguments[1]).resolve(), run_as_started)
    elif world and world.rank > 0:
        if run_dir := cluster.wait_for_run():
            run_worker(run_dir / RESOLVED, run_as_started)
    else:
        try:
            sys.argv[1:] = resume_arguments(sorted(arguments, key=lambda text: text not in ("-m", "--multirun")))
            if world and sys.argv[1:2] in (["-m"], ["--multirun"]):
                raise ConfigError(f"-m starts its own processes: run a sweep without {world.starter}")
            with help_of_options(sys.argv):
                main()
        finally:
            if world:
                cluster.dismiss(world)
            sweep.report()
