"""A trained run: what it is made of, and what can be asked of it."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from refold.errors import ConfigError, DataError, first_line
from refold.library.opening import open_run_directory
from refold.runs.bounded_files import LARGEST_BYTES, read_text
from refold.runs.directory import RESULT

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from refold.data import Scaler
    from refold.data.bars.entries import Entry
    from refold.library.judge import Judge
    from refold.live.live_detector import LiveDetector
    from refold.models import Autoencoder
    from refold.scoring.detector import Detector

    Frame = pl.DataFrame | pl.LazyFrame | pd.DataFrame
    """A table of bars, long or wide; its columns are found as those of a CSV file are."""


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
        decisions: "str | os.PathLike | None" = None,
    ) -> "pl.DataFrame | pd.DataFrame":
        """Say of each bar how strange it is, whether it is flagged, and why.

        Args:
            bars: a table such as the run was trained on, or the path of one.
            score: name of an option of conf/score; None: the run's own.
            threshold: name of an option of conf/threshold; None: the run's own.
            alignment: mean, median, max or last; None: the run's own.
            overrides: other settings that can be chosen anew, as {"threshold.risk": 1e-4} or ["threshold.risk=1e-4"].
            decisions: path of the decisions that a report saved; events that they dismiss are not raised again.

        Returns:
            A row per bar, sorted by asset, then time: timestamp, asset, score (null where no window holds the bar),
            level, flagged, rarity (share of validation bars of the asset that score as high), kind and to_blame (of
            flagged bars), reconstructed_close, reason (why a bar has no score). Of pandas, if `bars` is.

        Raises:
            RefoldError: the bars cannot be read or judged, or a setting is wrong.
        """
        from refold.library.frames import returned_like
        from refold.library.verdicts import verdicts

        judge = self._judge(bars, score, threshold, alignment, overrides, decisions)
        return returned_like(bars, verdicts(judge.score()))

    def events(
        self,
        bars: "Frame | str | os.PathLike",
        *,
        score: str | None = None,
        threshold: str | None = None,
        alignment: str | None = None,
        overrides: Mapping[str, Any] | Sequence[str] | None = None,
        decisions: "str | os.PathLike | None" = None,
    ) -> "pl.DataFrame | pd.DataFrame":
        """Find runs of neighbouring bars that the model flags or that the checks find faulty.

        Args:
            bars: as for `score`, like the other arguments.
            score: name of an option of conf/score.
            threshold: name of an option of conf/threshold.
            alignment: mean, median, max or last.
            overrides: other settings that can be chosen anew.
            decisions: as for `score`.

        Returns:
            A row per event: asset, start, end, peak, score and rarity (at the peak), once_in (how often the asset has a
            bar as rare), features (";"-joined, most to blame first), kind, bars, found_by (model or checks), and policy
            and done (of what the checks find). Of pandas, if `bars` is.

        Raises:
            RefoldError: the bars cannot be read or judged, or a setting is wrong.
        """
        from refold.library.frames import returned_like

        judge = self._judge(bars, score, threshold, alignment, overrides, decisions)
        return returned_like(bars, judge.score().events)

    def repair(
        self,
        bars: "Frame | str | os.PathLike",
        *,
        apply: bool = False,
        score: str | None = None,
        threshold: str | None = None,
        alignment: str | None = None,
        overrides: Mapping[str, Any] | Sequence[str] | None = None,
        decisions: "str | os.PathLike | None" = None,
    ) -> "pl.DataFrame | pd.DataFrame":
        """Propose what the bars of each event should have been. The bars given are never changed.

        Args:
            bars: as for `score`, like the last four arguments; with open, high, low and close.
            apply: True returns a copy of the bars with the proposed values instead.
            score: name of an option of conf/score.
            threshold: name of an option of conf/threshold.
            alignment: mean, median, max or last.
            overrides: other settings that can be chosen anew.
            decisions: as for `score`.

        Returns:
            A row per value: asset, timestamp, event_start, explanation, column, value, proposed, low and high (an
            interval that holds nine of ten sound values), factor (of units and splits), and the log returns to the last
            and of the next close as they are and as they would be. Of pandas, if `bars` is.

        Raises:
            RefoldError: the bars have no four prices, cannot be read or judged, or a setting is wrong.
        """
        from refold.library.frames import returned_like
        from refold.library.repairing import propose_repairs

        judge = self._judge(bars, score, threshold, alignment, overrides, decisions)
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
        from refold.library.tally import HERE

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
            units (null where no window holds the bar), and reconstructed_close. Rows without a date or an asset are the
            last ones. Of pandas, if `bars` is.

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
            A row per window: timestamp of its last bar, asset, z_0, z_1, ... No window holds a row without a date or an
            asset. Of pandas, if `bars` is.

        Raises:
            RefoldError: the bars cannot be read or judged.
        """
        from refold.library.frames import returned_like

        return returned_like(bars, self._judge(bars).encode()[0].table().collect())

    def live(
        self,
        *,
        score: str | None = None,
        threshold: str | None = None,
        alignment: str | None = None,
        overrides: Mapping[str, Any] | Sequence[str] | None = None,
        fitted: Mapping[str, Any] | None = None,
    ) -> "LiveDetector":
        """Return a detector that judges bars as they come.

        What is not the run's own is fitted anew on the run's own data, which takes as long as scoring it; a state that
        the detector saves keeps what was fitted.

        Args:
            score: as for `score`.
            threshold: as for `score`; spot goes on learning.
            alignment: last, where the run's own is another one.
            overrides: as for `score`.
            fitted: what was fitted for these settings before, as `LiveDetector.load` gives it.

        Returns:
            The detector, without a past: `warm` primes it with history.

        Raises:
            RefoldError: a setting is wrong, or what it asks for needs later bars or those of other assets.
        """
        from refold.library.going_live import go_live

        return go_live(self, self._settings(score, threshold, alignment, overrides), fitted)

    def report(
        self,
        path: "str | os.PathLike",
        bars: "Frame | str | os.PathLike | None" = None,
        *,
        beside: str | None = None,
        decisions: "str | os.PathLike | None" = None,
    ) -> Path:
        """Score bars and write the page about them.

        Args:
            path: path of the HTML file.
            bars: as for `score`; None: the run's own validation and test parts.
            beside: name of an option of conf/score whose verdict is the other one, named or unusual, for a second list.
            decisions: as for `score`; the page has their buttons pressed.

        Returns:
            The path.

        Raises:
            RefoldError: the bars cannot be read or judged, or the file cannot be written.
        """
        from refold.library.beside import with_beside
        from refold.library.repairing import repairs_for_report
        from refold.library.scored_files import write_report

        judge = self._judge(bars, decisions=decisions)
        scoring = judge.score(thresholds=True, evidence=True)
        if beside is not None:
            scoring = with_beside(judge, scoring, beside, bars=bars, decisions=decisions)
        repairs = repairs_for_report(judge, scoring)
        write_report(self, scoring, path, repairs and repairs.proposed)
        return Path(path)

    def export(
        self,
        path: "str | os.PathLike | None" = None,
        *,
        format: str = "onnx",
        score: str | None = None,
        threshold: str | None = None,
        alignment: str | None = None,
        overrides: Mapping[str, Any] | Sequence[str] | None = None,
    ) -> Path:
        """Write scaler, autoencoder and score as one file that needs no Refold.

        Args:
            path: path of the file; None: model.onnx or model.pt2 in the run directory.
            format: onnx or torch_export.
            score: as for `score`, like the other arguments; what is not the run's own is fitted anew for the file.
            threshold: its level stands in the notes of the file.
            alignment: last for files that judge the last bar of a window.
            overrides: settings below score and threshold.

        Returns:
            The path.

        Raises:
            RefoldError: the run cannot be exported, or a package is not installed.
        """
        from refold.export import writer
        from refold.library.chosen import with_chosen

        if format not in writer.FORMATS:
            raise ConfigError(f"format is {format!r}; it must be one of {', '.join(writer.FORMATS)}")
        out = Path(path) if path is not None else self.directory / f"model{writer.FORMATS[format].suffix}"
        run, _ = with_chosen(self, self._settings(score, threshold, alignment, overrides))
        writer.export_run(run, out, format)
        return out

    def _judge(
        self,
        bars: Any,
        score: str | None = None,
        threshold: str | None = None,
        alignment: str | None = None,
        overrides: Mapping[str, Any] | Sequence[str] | None = None,
        decisions: "str | os.PathLike | None" = None,
    ) -> "Judge":
        from refold.library.judge import Judge

        return Judge(self, bars, self._settings(score, threshold, alignment, overrides), decisions=decisions)

    def _settings(
        self,
        score: str | None,
        threshold: str | None,
        alignment: str | None,
        overrides: Mapping[str, Any] | Sequence[str] | None,
    ) -> dict[str, Any]:
        """Return what is chosen anew, as key -> value."""
        from refold.config.arguments import split_settings

        chosen = {"score": score, "threshold": threshold, "alignment": alignment}
        settings = {key: value for key, value in chosen.items() if value is not None}
        if overrides is not None and not isinstance(overrides, Mapping):
            overrides = split_settings([overrides] if isinstance(overrides, str) else overrides)
        return {**settings, **(overrides or {})}


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
    return Run(*open_run_directory(path, trust))
