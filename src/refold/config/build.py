"""Build objects from a composed configuration.

Only `refold.config` and `refold.cli` know Hydra. Functions import torch and lightning when they are called, so that
completion and `--help` do without them.
"""

import secrets
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from refold.errors import ConfigError, RefoldError
from refold.launch.cluster import find_environment
from refold.launch.worker_process import is_worker
from refold.runs.directory import METRICS
from refold.runs.settings import refuse_withheld, to_plain, to_writable

if TYPE_CHECKING:
    import lightning as L

    from refold.data import Scaler, WindowDataModule
    from refold.data.bars.checks import Checks
    from refold.data.bars.entries import Entry
    from refold.data.bars.table import Table
    from refold.data.recipe import Recipe
    from refold.data.sources.source import Source
    from refold.models import Autoencoder
    from refold.scoring.detector import Detector
    from refold.scoring.drift import DriftLimits, DriftTest
    from refold.scoring.protocols import Evaluation
    from refold.scoring.scores import Score
    from refold.scoring.thresholds import Threshold
    from refold.training.module import AutoencoderModule
    from refold.training.teacher_forcing import TeacherForcing

OmegaConf.register_new_resolver("unique", lambda purpose: secrets.token_hex(3), use_cache=True, replace=True)


def _instantiate(cfg: DictConfig, path: str, **runtime: Any) -> Any:
    """Build the object of a section; a constructor's refusal becomes a ConfigError."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        # Runtime arguments go past Hydra, which would take dicts among them for configuration and build what they name.
        node = OmegaConf.select(cfg, path)
        factory = instantiate(node, _convert_="all", _partial_=True)
        return factory if node.get("_partial_") else factory(**runtime)
    except Exception as error:
        refusals = (InstantiationException, ValueError, TypeError, ImportError)
        # by its name: to import the class would bring Lightning, which scoring does without
        if not isinstance(error, refusals) and type(error).__name__ != "MisconfigurationException":
            raise
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, RefoldError):
            raise cause from None
        text = str(cause).strip().splitlines()[0]
        raise ConfigError(text if text.startswith(path) else f"{path}: {text}") from cause


def _refuse_withheld_source(cfg: DictConfig) -> None:
    """Refuse a source whose password was kept out of the run directory that the configuration was read from."""
    refuse_withheld(to_plain(cfg.data).get("source"), "data.source", "the same command with")


def build_data(cfg: DictConfig) -> "WindowDataModule":
    """Build the data module; it reads nothing before `setup`.

    Raises:
        ConfigError: a setting is refused, or a password that reading needs was kept out of the run directory.
    """
    _refuse_withheld_source(cfg)
    return _instantiate(cfg, "data", horizon=horizon_of(cfg))


def horizon_of(cfg: DictConfig) -> int:
    """Return the bars after a window that a configuration asks to predict; 0 without a predictor."""
    return cfg.predictor.horizon if cfg.get("predictor") else 0


def build_source(cfg: DictConfig) -> "Source":
    """Build the source of bars; it reads nothing before it is asked to."""
    _refuse_withheld_source(cfg)
    return _instantiate(cfg, "data.source")


def build_table(cfg: DictConfig) -> "Table":
    """Build what reads a user's table; the usual column names do where the source reads no tables."""
    return _instantiate(cfg, "data.source.table")


def build_checks(cfg: DictConfig) -> "Checks":
    """Build the checks of bars with their policies."""
    return _instantiate(cfg, "data.checks")


def build_recipe(cfg: DictConfig, entries: "Sequence[Entry] | None" = None) -> "Recipe":
    """Build how bars become windows, without the data module, which would bring Lightning.

    Args:
        cfg: the configuration.
        entries: of data.features, as a run has found and saved them; None takes those of the configuration.
    """
    from refold.data.recipe import Recipe

    data = cfg.data
    if entries is None and data.features is not None:
        entries = to_plain(data)["features"]
    return Recipe(
        entries=None if entries is None else tuple(entries),
        layout=data.layout,
        min_assets=data.min_assets,
        window_size=data.window_size,
        max_masked=data.max_masked,
        split=_instantiate(cfg, "data.split"),
        fold=data.fold,
        checks=build_checks(cfg),
        overnight=data.overnight,
        scale=data.scale,
        scale_lookback=data.scale_lookback,
        horizon=horizon_of(cfg),
    )


def build_autoencoder(cfg: DictConfig, num_features: int) -> "Autoencoder":
    """Build encoder, bridge and decoders with fresh weights from torch's global generator.

    Args:
        cfg: the configuration.
        num_features: F.
    """
    from refold.models import Autoencoder, LinearPath

    bridge = build_bridge(cfg)
    encoder = _instantiate(cfg, "encoder", input_size=num_features)
    sizes = {"output_size": num_features, "conditioning_size": bridge.conditioning_size}
    decoder = _instantiate(cfg, "decoder", **sizes)
    linear = None
    if bridge.with_linear_path:
        window_size = cfg.data.window_size
        linear = LinearPath(window_size=window_size, num_features=num_features, code_size=bridge.code_size)
    if not horizon_of(cfg):
        return Autoencoder(encoder, bridge, decoder, linear)
    # it starts from the state that the bridge makes for the first decoder, so it has its sizes
    sizes |= {"num_layers": cfg.decoder.num_layers, "hidden_size": cfg.decoder.hidden_size, "reverse": False}
    predictor = _instantiate(cfg, "predictor.decoder", **sizes)
    return Autoencoder(encoder, bridge, decoder, linear, predictor, horizon_of(cfg))


def build_bridge(cfg: DictConfig) -> Any:
    """Build the bridge between the configured encoder and decoder."""
    return _instantiate(
        cfg,
        "bridge",
        encoder_num_layers=cfg.encoder.num_layers,
        encoder_state_size=cfg.encoder.hidden_size * (2 if cfg.encoder.bidirectional else 1),
        decoder_num_layers=cfg.decoder.num_layers,
        decoder_hidden_size=cfg.decoder.hidden_size,
    )


def build_threshold(cfg: DictConfig) -> "Threshold":
    """Build the threshold that turns scores into verdicts; it is not fitted."""
    return _instantiate(cfg, "threshold")


class Parts:
    """Build the parts of a configuration, each of them once: the check builds them first, then the run uses them.

    Args:
        cfg: the configuration; its sections of these parts do not change any more.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg

    @cached_property
    def data(self) -> "WindowDataModule":
        """The data module."""
        return build_data(self.cfg)

    @cached_property
    def teacher_forcing(self) -> "TeacherForcing":
        """The schedule with its coin."""
        return _instantiate(self.cfg, "teacher_forcing")

    @cached_property
    def score(self) -> "Score":
        """The score, not fitted."""
        return _instantiate(self.cfg, "score")

    @cached_property
    def threshold(self) -> "Threshold":
        """The threshold, not fitted."""
        return build_threshold(self.cfg)

    @cached_property
    def drift(self) -> "DriftLimits":
        """Read the settings of the test of drift: how rarely it may give a false alarm."""
        return _instantiate(self.cfg, "drift")

    @cached_property
    def evaluation(self) -> "Evaluation | None":
        """The measurements that an experiment adds to the reconstruction error; None if it adds none."""
        return _instantiate(self.cfg, "evaluation") if self.cfg.evaluation else None

    @cached_property
    def optimizer(self) -> Callable:
        """A function from parameters to their optimizer."""
        return _instantiate(self.cfg, "optimizer")


def build_detector(
    cfg: DictConfig,
    autoencoder: "Autoencoder",
    recipe: "Recipe",
    scaler: "Scaler",
    columns: list[str],
    parts: Parts | None = None,
) -> "Detector":
    """Build score, threshold and alignment around an autoencoder; they are not fitted.

    Args:
        cfg: names the three.
        autoencoder: trained.
        recipe: the rules by which bars become its windows.
        scaler: the scale from features to what it sees.
        columns: names of the columns of a window.
        parts: the parts of the configuration, where some have been built; None builds them.
    """
    from refold.scoring.detector import Detector

    parts = parts or Parts(cfg)
    return Detector(
        autoencoder=autoencoder,
        recipe=recipe,
        scaler=scaler,
        columns=columns,
        score=parts.score,
        threshold=parts.threshold,
        alignment=cfg.alignment,
    )


def build_drift_test(cfg: DictConfig, detector: "Detector") -> "DriftTest | None":
    """Build a fresh test of whether bars are like those of validation.

    Args:
        cfg: the configuration, with the limits.
        detector: fitted.

    Returns:
        The test; None if validation has too few bars for one.
    """
    from refold.scoring.drift import DriftTest

    return DriftTest(detector.reference, Parts(cfg).drift) if detector.reference is not None else None


def build_module(cfg: DictConfig, num_features: int, parts: Parts | None = None) -> "AutoencoderModule":
    """Build the LightningModule around a model with fresh weights.

    Args:
        cfg: the configuration.
        num_features: F.
        parts: the parts of the configuration, where some have been built; None builds them.
    """
    from refold.training.module import AutoencoderModule

    parts = parts or Parts(cfg)
    return AutoencoderModule(
        build_autoencoder(cfg, num_features),
        num_features=num_features,
        loss=_instantiate(cfg, "loss"),
        teacher_forcing=parts.teacher_forcing,
        optimizer=parts.optimizer,
        lr_schedule=_instantiate(cfg, "lr_schedule"),
        seed=cfg.seed,
        **({"prediction_weight": cfg.predictor.weight} if horizon_of(cfg) else {}),
    )


def start_linear_path(module: "AutoencoderModule", data: "WindowDataModule") -> None:
    """Set the linear path of a fresh model, if it has one, to PCA of the training windows.

    Of all linear maps these are the best under the loss: a loss that weighs whole windows weighs them here too. Every
    process computes the same from the same windows; none draws a random number of the training for it.
    """
    from refold.scoring.baselines import PCA

    autoencoder = module.autoencoder
    if autoencoder.linear is not None:
        pca = PCA(autoencoder.code_size, module.seed)
        pca.fit(data.train_windows, getattr(module.loss, "window_weights", None))
        autoencoder.start_from_components(pca.mean, pca.components, pca.spread(data.train_windows))


def build_logger(cfg: DictConfig, run_dir: Path) -> Any:
    """Build the logger beside metrics.csv, or None; its page shows settings, choices and overrides."""
    settings = without_noise(to_writable(cfg))
    return _instantiate(cfg, "logger", run_dir=run_dir, run_id=cfg.run.id, settings=settings, group=cfg.run.group)


def without_noise(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings as a reader compares them: without class names and without loggers."""

    def strip(node: dict[str, Any]) -> dict[str, Any]:
        kept = {key: strip(value) if isinstance(value, dict) else value for key, value in node.items()}
        return {key: value for key, value in kept.items() if not key.startswith("_") and value != {}}

    return strip({key: value for key, value in settings.items() if key not in ("logger", "resume", "trust")})


def build_trainer(cfg: DictConfig, run_dir: Path, pictures: "L.Callback") -> "L.Trainer":
    """Build Lightning's trainer with Refold's callbacks and loggers, which write into the run directory.

    Args:
        cfg: the configuration.
        run_dir: the run directory.
        pictures: the callback that draws windows after some epochs.
    """
    from refold.training.metrics_file import MetricsFile
    from refold.training.saving import AtomicCheckpointIO

    logger = build_logger(cfg, run_dir)
    return _instantiate(
        cfg,
        "trainer",
        logger=[MetricsFile(run_dir / METRICS), *([logger] if logger else [])],
        callbacks=_build_callbacks(cfg, run_dir, pictures),
        plugins=[AtomicCheckpointIO(), find_environment()],
        default_root_dir=run_dir,
        enable_progress_bar=sys.stdout.isatty(),
    )


def _build_callbacks(cfg: DictConfig, run_dir: Path, pictures: "L.Callback") -> list[Any]:
    """Build the callbacks, Checkpoints before those that rely on what it has written."""
    from refold.training.callbacks import EpochBar, EpochReport, RunFacts, StopOnSignal, TrainingSample

    checkpoints = _instantiate(cfg, "checkpoint", run_dir=run_dir)
    return [
        RunFacts(),
        TrainingSample(),
        pictures,
        EpochReport(),
        *([EpochBar()] if sys.stdout.isatty() else []),
        *_instantiate(cfg, "early_stopping"),
        checkpoints,
        StopOnSignal(checkpoints, second_stops=not is_worker()),
    ]
