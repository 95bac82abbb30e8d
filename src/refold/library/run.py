"""A trained run: what it is made of, and what can be asked of it."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from refold.config.build import build_autoencoder, build_detector, build_recipe
from refold.config.memory import refuse_too_large
from refold.errors import ConfigError, DataError, first_line
from refold.runs.bounded_files import LARGEST_BYTES, read_text
from refold.runs.checkpoints import read_checkpoint
from refold.runs.directory import BEST_CHECKPOINT, DETECTOR, RESOLVED, RESULT
from refold.runs.settings import read_settings

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from refold.data import Scaler
    from refold.data.bars.entries import Entry
    from refold.library.judge import Judge
    from refold.models import Autoencoder
    from refold.scoring.detector import Detector

    Frame = pl.DataFrame | pl.LazyFrame | pd.DataFrame
    """A table of bars, long or wide; its columns are found as those of a CSV file are."""


SECTIONS = ("data", "data.source", "data.source.table", "data.checks", "score", "threshold")
"""Settings of a run that are mappings, where there are any."""

SPOILT = (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError, ArithmeticError)
"""Errors that values of other keys, types and shapes raise when they are used."""


class Run:
    """A trained run: its parts, and what they say about bars.

    Attributes:
        directory: the run directory.
        config: the run's configuration.
        autoencoder: the trained model, in evaluation mode.
        scaler: the scale from features to what the model sees, fitted to the training part.
        features: names of the features of a bar of one asset.
        entries: of data.features that make those features, whatever columns a table has.
        detector: score and threshold, fitted; None if the run did not come to its end.
    """

    def __init__(
        self,
        directory: Path,
        config: DictConfig,
        autoencoder: "Autoencoder",
        scaler: "Scaler",
        features: list[str],
        detector: "Detector | None",
        entries: "list[Entry] | None" = None,
    ) -> None:
        self.directory = directory
        self.config = config
        self.autoencoder = autoencoder
        self.scaler = scaler
        self.features = features
        self.entries: Sequence[Entry] = features if entries is None else entries
        self.detector = detector

    def __repr__(self) -> str:
        return f"<Run {self.config.run.id} in {self.directory}>"

    @property
    def result(self) -> dict[str, Any]:
        """The measures of the run's end, as in result.json; empty if it did not come to its end."""
        path = self.directory / RESULT
        if not path.exists():
            return {}
        try:
            return json.loads(read_text(path, LARGEST_BYTES))
        except (OSError, ValueError, RecursionError) as error:
            reason = first_line(error) if isinstance(error, OSError | ValueError) else "it is nested too deeply"
            raise ConfigError(f"{path} cannot be read: {reason}") from None

    def score(
        self,
        bars: "Frame | str | os.PathLike",
        *,
        score: str | None = None,
        threshold: str | None = None,
        alignment: str | None = None,
        overrides: Mapping[str, Any] | Sequence[str] | None = None,
    ) -> "pl.DataFrame | pd.DataFrame":
        """Say of each bar how strange it is, whether it is flagged, and why.

        Args:
            bars: a table such as the run was trained on, or the path of one.
            score: name of an option of conf/score; None: the run's own.
            threshold: name of an option of conf/threshold; None: the run's own.
            alignment: mean, median, max or last; None: the run's own.
            overrides: other settings that can be chosen anew, as {"threshold.risk": 1e-4} or ["threshold.risk=1e-4"].

        Returns:
            A row per bar, sorted by asset, then time: timestamp, asset, score (null where no window holds the bar),
            level, flagged, rarity (share of validation bars of the asset that score as high), kind and to_blame (of
            flagged bars), reconstructed_close, reason (why a bar has no score). Of pandas, if `bars` is.

        Raises:
            RefoldError: the bars cannot be read or judged, or a setting is wrong.
        """
        from refold.library.frames import returned_like
        from refold.library.judge import verdicts

        return returned_like(bars, verdicts(self._judge(bars, score, threshold, alignment, overrides).score()))

    def events(
        self,
        bars: "Frame | str | os.PathLike",
        *,
        score: str | None = None,
        threshold: str | None = None,
        alignment: str | None = None,
        overrides: Mapping[str, Any] | Sequence[str] | None = None,
    ) -> "pl.DataFrame | pd.DataFrame":
        """Find runs of neighbouring bars that the model flags or that the checks find faulty.

        Args:
            bars: as for `score`, like the other arguments.
            score: name of an option of conf/score.
            threshold: name of an option of conf/threshold.
            alignment: mean, median, max or last.
            overrides: other settings that can be chosen anew.

        Returns:
            A row per event: asset, start, end, peak, score and rarity (at the peak), once_in (how often the asset has a
            bar as rare), features (";"-joined, most to blame first), kind, bars, found_by (model or checks), and policy
            and done (of what the checks find). Of pandas, if `bars` is.

        Raises:
            RefoldError: the bars cannot be read or judged, or a setting is wrong.
        """
        from refold.library.frames import returned_like

        return returned_like(bars, self._judge(bars, score, threshold, alignment, overrides).score().events)

    def repair(
        self,
        bars: "Frame | str | os.PathLike",
        *,
        apply: bool = False,
        score: str | None = None,
        threshold: str | None = None,
        alignment: str | None = None,
        overrides: Mapping[str, Any] | Sequence[str] | None = None,
    ) -> "pl.DataFrame | pd.DataFrame":
        """Propose what the bars of each event should have been. The bars given are never changed.

        Args:
            bars: as for `score`, like the last four arguments; with open, high, low and close.
            apply: True returns a copy of the bars with the proposed values instead.
            score: name of an option of conf/score.
            threshold: name of an option of conf/threshold.
            alignment: mean, median, max or last.
            overrides: other settings that can be chosen anew.

        Returns:
            A row per value: asset, timestamp, event_start, explanation, column, value, proposed, low and high (an
            interval that holds nine of ten sound values), factor (of units and splits), and the log returns to the last
            and of the next close as they are and as they would be. Of pandas, if `bars` is.

        Raises:
            RefoldError: the bars have no four prices, cannot be read or judged, or a setting is wrong.
        """
        from refold.library.frames import returned_like
        from refold.library.repairing import propose_repairs

        judge = self._judge(bars, score, threshold, alignment, overrides)
        repairs = propose_repairs(judge, judge.score())
        return returned_like(bars, repairs.applied() if apply else repairs.proposed)

    def detection(
        self,
        bars: "Frame | str | os.PathLike",
        *,
        score: str | None = None,
        threshold: str | None = None,
        alignment: str | None = None,
        overrides: Mapping[str, Any] | Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Measure scores and verdicts against the labels of some bars.

        Args:
            bars: as for `score`, like the other arguments, with the column of labels that the run was trained with, or
                that `overrides` names as data.source.table.columns.label.
            score: name of an option of conf/score.
            threshold: name of an option of conf/threshold.
            alignment: mean, median, max or last.
            overrides: other settings that can be chosen anew.

        Returns:
            average_precision, auroc, vus_pr, event_f1 and others, as in scoring.json; None where there is no value,
            with the reason under "missing".

        Raises:
            RefoldError: the bars have no labels, cannot be read or judged, or a setting is wrong.
        """
        from refold.library.judge import HERE

        found = self._judge(bars, score, threshold, alignment, overrides).score().facts.get("detection")
        if found is None:
            raise DataError(
                "the bars have no labels; name the column that has them with data.source.table.columns.label"
            )
        return found[HERE]

    def reconstruct(self, bars: "Frame | str | os.PathLike") -> "pl.DataFrame | pd.DataFrame":
        """Return what the model makes of each bar.

        Args:
            bars: as for `score`.

        Returns:
            A row per bar, sorted by asset, then time: timestamp, asset, each feature as it is reconstructed, in its own
            units (null where no window holds the bar), and reconstructed_close. Of pandas, if `bars` is.

        Raises:
            RefoldError: the bars cannot be read or judged.
        """
        from refold.library.frames import returned_like

        return returned_like(bars, self._judge(bars).reconstruct())

    def encode(self, bars: "Frame | str | os.PathLike") -> "pl.DataFrame | pd.DataFrame":
        """Encode each window of some bars.

        Args:
            bars: as for `score`.

        Returns:
            A row per window: timestamp of its last bar, asset, z_0, z_1, ... Of pandas, if `bars` is.

        Raises:
            RefoldError: the bars cannot be read or judged.
        """
        from refold.library.frames import returned_like

        return returned_like(bars, self._judge(bars).encode().table().collect())

    def report(self, path: "str | os.PathLike", bars: "Frame | str | os.PathLike | None" = None) -> Path:
        """Score bars and write the page about them.

        Args:
            path: path of the HTML file.
            bars: as for `score`; None: the run's own validation and test parts.

        Returns:
            The path.

        Raises:
            RefoldError: the bars cannot be read or judged, or the file cannot be written.
        """
        from refold.library.scored_files import write_report

        write_report(self, self._judge(bars).score(thresholds=True, evidence=True), path)
        return Path(path)

    def export(self, path: "str | os.PathLike | None" = None, *, format: str = "onnx") -> Path:
        """Write scaler, autoencoder and score as one file that needs no Refold.

        Args:
            path: path of the file; None: model.onnx or model.pt2 in the run directory.
            format: onnx or torch_export.

        Returns:
            The path.

        Raises:
            RefoldError: the run cannot be exported, or a package is not installed.
        """
        from refold.export import writer

        if format not in writer.FORMATS:
            raise ConfigError(f"format is {format!r}; it must be one of {', '.join(writer.FORMATS)}")
        out = Path(path) if path is not None else self.directory / f"model{writer.FORMATS[format].suffix}"
        writer.export_run(self, out, format)
        return out

    def _judge(
        self,
        bars: Any,
        score: str | None = None,
        threshold: str | None = None,
        alignment: str | None = None,
        overrides: Mapping[str, Any] | Sequence[str] | None = None,
    ) -> "Judge":
        from refold.config.arguments import split_settings
        from refold.library.judge import Judge

        chosen = {"score": score, "threshold": threshold, "alignment": alignment}
        settings = {key: value for key, value in chosen.items() if value is not None}
        if overrides is not None and not isinstance(overrides, Mapping):
            overrides = split_settings([overrides] if isinstance(overrides, str) else overrides)
        return Judge(self, bars, {**settings, **(overrides or {})})


def _told(error: Exception) -> str:
    """Say what is wrong with a file whose content is of other keys, types or shapes."""
    told = f"lacks {error}" if isinstance(error, KeyError) else f"is spoilt: {first_line(error)}"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in told)


def load_run(path: str | os.PathLike, *, trust: Sequence[str] = ()) -> Run:
    """Load a run from its directory: the weights of best.ckpt, on the CPU, and the scaler it came with.

    Args:
        path: a run directory, such as "outputs/latest".
        trust: packages of your own whose parts the run may build; a run directory builds no others than Refold's.

    Returns:
        The run; its model is in evaluation mode.

    Raises:
        ConfigError: the directory, its resolved.yaml or its checkpoint is not there; or the run would build parts that
            are neither Refold's nor trusted.
    """
    from refold.data import Scaler
    from refold.data.bars.expected import Timetables

    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"the run is a {type(path).__name__}; it must be the path of a run directory")
    directory = Path(path).resolve()
    settings, weights = directory / RESOLVED, directory / BEST_CHECKPOINT
    for needed in (directory, settings, weights):
        if not os.path.exists(needed):  # False also where nobody may look
            raise ConfigError(f"{path} is not a finished run: there is no {needed}")
    cfg = read_settings(settings, trust)
    for key in SECTIONS:
        if not isinstance(OmegaConf.select(cfg, key, default={}), Mapping | DictConfig):
            raise ConfigError(f"{settings}: {key} is no section of settings; a run has one there")
    size = OmegaConf.select(cfg, "data.window_size")
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f"{settings}: data.window_size is {size!r}; it must be a whole number of at least 1")
    checkpoint = read_checkpoint(weights)
    try:
        data, parameters = checkpoint["WindowDataModule"], checkpoint["state_dict"]
        scaler = Scaler.from_state_dict(data["scaler"])
        features, entries = list(data["features"]), list(data["entries"])
        timetables = Timetables.from_plain(data["timetables"])
        if scaler.mean.ndim != 1 or scaler.mean.shape != scaler.std.shape:
            raise ValueError(f"its scaler has shapes {tuple(scaler.mean.shape)} and {tuple(scaler.std.shape)}")
        if not scaler.mean.isfinite().all() or not (scaler.std.isfinite() & (scaler.std > 0)).all():
            raise ValueError(
                "its scaler has means or deviations that are not finite, or deviations that are not above 0"
            )
        prefix = "autoencoder."
        state = {key.removeprefix(prefix): value for key, value in parameters.items() if key.startswith(prefix)}
    except SPOILT as error:
        raise ConfigError(f"{weights} {_told(error)}; it is no checkpoint that Refold's training wrote") from None
    try:
        if too_large := refuse_too_large(cfg):
            raise ConfigError(too_large)
        autoencoder = build_autoencoder(cfg, num_features=len(scaler.mean))
    except (ConfigError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"{settings} does not build a model; is it of another version of refold? {str(error).splitlines()[0]}"
        ) from None
    try:
        autoencoder.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(f"{weights} does not fit {settings}; is it of another version of refold? {reason}") from None
    if broken := [name for name, value in state.items() if not value.isfinite().all()]:
        raise ConfigError(
            f"{weights} has weights that are NaN or infinite, {broken[0]} among them: its training diverged; train "
            f"again, with a smaller optimizer.lr"
        )
    autoencoder.eval()
    detector = None
    if (directory / DETECTOR).exists():
        recipe = build_recipe(cfg, entries)
        recipe = replace(recipe, checks=recipe.checks.knowing(timetables), scale=scaler.kind)
        detector = build_detector(cfg, autoencoder, recipe, scaler, columns=[])
        fitted = read_checkpoint(directory / DETECTOR)
        try:
            detector.load_state_dict(fitted)
        except SPOILT as error:
            raise ConfigError(f"{directory / DETECTOR} {_told(error)}; it is no detector that Refold wrote") from None
    return Run(directory, cfg, autoencoder, scaler, features, detector, entries)
