"""Train one LSTM autoencoder: compose -> check -> build -> fit -> test -> summary.

python train.py                                        the embedded stocks, a minute on two cores
python train.py decoder=conditional layers=two         other parts; `python train.py --help` lists them
python train.py -m layers=one,two seed=0,1,2           a sweep
python train.py resume=latest                          go on where the newest run stopped
"""

import logging
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from refold.cli import job, sweep
from refold.config import build as config
from refold.config.validate import check
from refold.launch.cluster import World
from refold.launch.hardware import Plan
from refold.launch.memory import keeping_freed_memory
from refold.launch.worker_process import report_ready
from refold.launch.workers import interruptible, needs_workers, restored_environment, run_workers
from refold.runs.directory import FINDINGS, full_disk_as_refold_error, refuse_existing_run
from refold.runs.settings import open_run
from refold.runs.state import lock_run

log = logging.getLogger("refold")

WORKER = (sys.executable, "-P", "-m", "refold", "train")
"""Command that starts a process of a job; `--job` and its resolved.yaml follow."""


def main() -> None:
    """Run the job or the sweep of this command line, or take part in a job that another process composed."""
    job.start(sys.argv[1:], run_composed, train)


def run_composed(composed: DictConfig) -> float:
    """Run one job that Hydra composed; Hydra calls the job and its log after this module."""
    return job.run_and_report(composed, run_job)


def run_job(composed: DictConfig, run_dir: Path) -> float:
    """Check the configuration, run it on as many processes as it asks for, and print what came out.

    Args:
        composed: configuration from Hydra.
        run_dir: directory of this job.

    Returns:
        The monitored value, for a sweeper to minimise.
    """
    cfg = job.identify_job(composed, run_dir)
    parts = config.Parts(cfg)
    for without_effect in check(cfg, parts):
        log.warning(without_effect)
    hardware, machine, world = job.plan_hardware(cfg)
    result = None
    if job.is_part_of_sweep():
        cfg, result = sweep.reuse_earlier_job(cfg, run_dir)
    if result is None:
        parts = parts if cfg is parts.cfg else None  # a sweep may go on with the settings of an earlier job
        result = train_on(hardware, cfg, run_dir, cores=machine.cores, world=world, parts=parts)
        job.print_result(result, run_dir)
    return result["metrics"][cfg.checkpoint.monitor]


def train_on(
    hardware: Plan,
    cfg: DictConfig,
    run_dir: Path,
    *,
    cores: int,
    world: World | None,
    parts: config.Parts | None = None,
) -> dict[str, Any]:
    """Open the run directory and train in it, here or on processes that are started for it.

    Args:
        hardware: processes, and the trainer's settings for them; the configuration has those already.
        cfg: checked configuration.
        run_dir: the run directory.
        cores: number of CPU cores of this machine.
        world: processes that another program started, this one being the first; None if there are none.
        parts: the parts of the configuration, as the check built them; None builds them.

    Returns:
        What result.json holds.

    Raises:
        RefoldError: a run is there already, or training failed.
    """
    refuse_existing_run(cfg, run_dir)
    with lock_run(run_dir), restored_environment():
        open_run(cfg, run_dir)
        job.announce_job(hardware, world, run_dir)
        if needs_workers(hardware) and not world:
            return run_workers(WORKER, run_dir, hardware, cores)
        return train(cfg, run_dir, parts) or {}


def train(cfg: DictConfig, run_dir: Path, parts: config.Parts | None = None) -> dict[str, Any] | None:
    """Build the parts of a run, fit them, and test the best weights. Every process of a job calls this.

    Args:
        cfg: checked configuration.
        run_dir: open run directory.
        parts: the parts of the configuration, as the check built them; None builds them.

    Returns:
        What result.json holds, on the first process; None on the others.
    """
    with interruptible(run_dir), full_disk_as_refold_error(run_dir):
        from refold.library.evaluation import evaluate_run
        from refold.library.scored_files import escape_formulas
        from refold.report.figures import ReconstructionPictures
        from refold.training.loggers import finish_loggers

        job.seed(cfg)
        parts = parts or config.Parts(cfg)
        data = parts.data
        data.setup()
        module = config.build_module(cfg, data.num_features, parts)
        if not cfg.resume:  # a checkpoint holds what came of it
            config.start_linear_path(module, data)
        status = 1
        try:
            # starts the W&B run, which must end whatever comes
            trainer = config.build_trainer(cfg, run_dir, ReconstructionPictures(run_dir))
            job.log_training(cfg, trainer, data)
            if trainer.is_global_zero:
                escape_formulas(data.findings).write_csv(run_dir / FINDINGS)
            report_ready()
            with keeping_freed_memory():
                trainer.fit(module, datamodule=data, ckpt_path=cfg.resume, weights_only=True)
            assert data.scaler is not None  # setup fitted it
            detector = config.build_detector(
                cfg, module.autoencoder, data.recipe, data.scaler, data.feature_names, parts
            )
            result = evaluate_run(cfg, run_dir, trainer, module, data, detector, parts.evaluation)
            status = 0
        finally:
            finish_loggers(status)
        return result
