"""Train one LSTM autoencoder: compose -> check -> build -> fit -> test -> summary.

python train.py                                        the embedded stocks, a few minutes on two cores
python train.py decoder=repeat layers=two              other parts; `python train.py --help` lists them
python train.py -m layers=one,two seed=0,1,2           a sweep
python train.py resume=latest                          go on where the newest run stopped
"""

import logging
import os
import sys
import warnings
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from refold import config, launch, run
from refold.errors import RefoldError
from refold.hardware import find_machine, plan

log = logging.getLogger("refold")


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """One job, as Hydra composed it. Returns: the monitored value, for a sweeper to minimise."""
    from refold.report.summary import print_summary

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    cfg = prepare(cfg, run_dir)
    for warning in config.check(cfg):
        log.warning(warning)
    machine = find_machine()
    hardware = plan(config.to_plain(cfg.trainer), machine)
    cfg.trainer = hardware.settings
    run.open_run(cfg, run_dir)
    for note in hardware.notes:
        log.info(note)
    with launch.restored_environment():
        if launch.needs_workers(hardware):
            result = launch.run_workers(Path(__file__), run_dir, hardware, machine.cores)
        else:
            result = train(cfg, run_dir)
    print_summary(result, run_dir)
    return result["metrics"][cfg.checkpoint.monitor]


def prepare(cfg: DictConfig, run_dir: Path) -> DictConfig:
    """The configuration of this job: a fresh one gets its id; a resumed run's own is taken up again."""
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    if cfg.resume:
        resume = run.Resume(cfg.resume)
        cfg = resume.config(overrides)
        cfg.resume = str(resume.checkpoint)
        return cfg
    choices = {group: option for group, option in hydra_config.runtime.choices.items() if "hydra" not in group}
    sweep = run_dir.parent.name if str(hydra_config.mode).endswith("MULTIRUN") else None
    with open_dict(cfg):
        cfg.run = {"id": run.identify(run_dir), "group": sweep, "choices": choices, "overrides": overrides}
    return cfg


def train(cfg: DictConfig, run_dir: Path) -> dict | None:
    """What every process of a job runs. Returns: the result, on the first process."""
    import lightning as L

    from refold.report.result import summarise
    from refold.training.loggers import finish_loggers

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it repeats what our own first lines say
    L.seed_everything(cfg.seed, verbose=False)
    data = config.build_data(cfg)
    data.setup()
    module = config.build_module(cfg, data.num_features)
    trainer = config.build_trainer(cfg, run_dir)
    log.info(
        "%s: %s x %s, strategy %s, precision %s, %d windows per step over all",
        cfg.run.id, trainer.world_size, cfg.trainer.accelerator, cfg.trainer.strategy, trainer.precision, data.batch_size,
    )  # fmt: skip
    log.info(data.description)
    status = 1
    try:
        trainer.fit(module, datamodule=data, ckpt_path=cfg.resume, weights_only=True)
        result = summarise(cfg, run_dir, trainer, module, data)
        status = 0
    finally:
        finish_loggers(status)
    return result


def command_line() -> int:
    """Run the command line; a user's mistake ends in its message alone. Returns: exit status."""
    for category in (UserWarning, FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module="lightning")
    if sys.argv[1:2] == ["--job"]:
        action = lambda: launch.work(Path(sys.argv[2]), train)  # noqa: E731
    else:
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to us, and not as Hydra prints them
        action = main
    try:
        sys.argv[1:] = run.resume_arguments(sys.argv[1:])
        action()
    except RefoldError as error:
        print(f"\n{error}", file=sys.stderr)
        return getattr(error, "status", 2)
    except KeyboardInterrupt:
        print("\nInterrupted. Go on with: python train.py resume=latest", file=sys.stderr)
        return 130
    except Exception as error:
        if message := config.explain(error, Path(__file__).parent / "conf"):
            print(message, file=sys.stderr)
            return 2
        raise
    return 0


if __name__ == "__main__":
    sys.exit(command_line())
