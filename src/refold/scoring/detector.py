"""A trained autoencoder as a scorer of bars: windows -> errors -> values of each bar -> score -> verdict.

Letters: N bars, R rows of a series, K assets of a panel (1 otherwise), B rows in a block, T bars, F features, C values.
"""

from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import replace
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from refold.data import Scaler, Series, Windows
from refold.data.bars.checks import Checks
from refold.data.recipe import Recipe
from refold.data.unsplit import ShortRuns, unsplit_series
from refold.errors import ConfigError, DataError
from refold.models import Autoencoder
from refold.scoring.alignment import Alignment
from refold.scoring.drift_reference import Reference, fit_reference
from refold.scoring.measuring import BARS_AT_ONCE, Measurer, Watch
from refold.scoring.planting import fit_head
from refold.scoring.rarity import Rarity, tell_pooled
from refold.scoring.scored import Scores, alarm_rate, bar_seconds, known_scores, microseconds, timed_scores
from refold.scoring.scores import PlantedErrors, Score
from refold.scoring.scores.base_score import asset_rows
from refold.scoring.thresholds import Threshold

FORMAT = 3
"""Of the state, for the message about a run of another version."""


class Detector:
    """Score bars with a trained autoencoder, and flag those whose score passes a threshold.

    The errors of its own asset's features score a bar. The windows of a panel hold all assets; each asset's bar is
    scored by its own F columns.

    Args:
        autoencoder: trained, on any device.
        recipe: how bars become its windows.
        scaler: from features to what it sees.
        columns: names of a window's columns.
        score: from errors to a score; fitted or not.
        threshold: from scores to levels; fitted or not.
        alignment: how the errors of a bar in several windows become one.
    """

    def __init__(
        self,
        *,
        autoencoder: Autoencoder,
        recipe: Recipe,
        scaler: Scaler,
        columns: list[str],
        score: Score,
        threshold: Threshold,
        alignment: Alignment,
    ) -> None:
        if score.predicts and not autoencoder.horizon:
            raise ConfigError(score.complaint_without_predictor())
        self.autoencoder = autoencoder
        self.recipe = recipe
        self.scaler = scaler
        self.columns = columns
        self.score_function = score
        self.threshold = threshold
        self.alignment: Alignment = alignment
        self.batch = max(64, BARS_AT_ONCE // recipe.window_size)
        self.workers: int | None = None  # batches at a time; None: as many as torch has threads on a CPU
        self.validation: dict[str, Any] = {}
        self.rarity: Rarity | None = None
        self.reference: Reference | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """The F features that a bar of one asset has."""
        return self.recipe.features

    @property
    def panel_assets(self) -> list[str]:
        """Names of the K assets of a panel, in the order of its columns."""
        return list(dict.fromkeys(column.rpartition("/")[0] for column in self.columns))

    def checking(self, checks: Checks) -> "Detector":
        """Return this detector with other checks of the bars that it is given; it shares everything else."""
        other = copy(self)
        other.recipe = replace(self.recipe, checks=checks)
        return other

    def around(self, autoencoder: nn.Module) -> "Detector":
        """Return this detector around another autoencoder, with a score and a threshold of its own to fit.

        Args:
            autoencoder: with all that a detector asks of one, as `refold.scoring.baselines.Components`.
        """
        other = copy(self)
        other.autoencoder = cast(Autoencoder, autoencoder)
        other.score_function, other.threshold = deepcopy(self.score_function), deepcopy(self.threshold)
        return other

    def judging_by(self, score: Score) -> "Detector":
        """Return this detector with another score, and a threshold of its own to fit.

        Args:
            score: not fitted; a copy of it is.
        """
        other = self.around(self.autoencoder)
        other.score_function = deepcopy(score)
        return other

    # ---- fit ---------------------------------------------------------------------------------------------------------

    def fit(self, train: pl.DataFrame, val: pl.DataFrame) -> "Detector":
        """Fit score and threshold. The autoencoder and its scaler stay as they are.

        Args:
            train: canonical bars of the training part.
            val: canonical bars of the validation part.

        Raises:
            DataError: a part has too few bars.
            ConfigError: validation has too few scores for the threshold.
        """
        self.fit_planted(train, val)
        pieces = [unsplit_series(bars, self.recipe, self.scaler) for bars in (train, val)]
        return self.fit_series(*((piece.series, piece.segments) for piece in pieces))

    def fit_planted(self, train: pl.DataFrame, val: pl.DataFrame) -> None:
        """Fit a score that learns from planted errors to copies of the bars; other scores have nothing to learn.

        Args:
            train: canonical bars of the training part.
            val: canonical bars of the validation part.

        Raises:
            DataError: a part has too few bars to plant in, or a kind plants what the checks find.
        """
        if isinstance(self.score_function, PlantedErrors):
            fit_head(self.score_function, self.recipe, self.measurer, self._bars, train, val)

    def fit_series(self, train: tuple[Series, np.ndarray], val: tuple[Series, np.ndarray]) -> "Detector":
        """Fit score and threshold to series of the two parts, such as those of a data module.

        Args:
            train: series of the training part, and (S, 2) first row and number of rows of each of its runs.
            val: the same of the validation part.

        A score that learns from planted errors has to be fitted to them before: `fit_planted`.
        """
        score = self.score_function
        if score.reads_codes:
            score.fit_codes(self.measurer.codes(*train))
        if score.reads_windows:
            score.fit_windows(Windows(*train, window_size=self.recipe.window_size, stride=1))
        values = self._bars(*(train if score.fitted_on == "train" else val))[0]
        kept = values[~values.isnan().any(dim=1)].double()
        if not len(kept):
            raise DataError(f"the {score.fitted_on} part has no bar to fit score to: it needs data.window_size bars")
        score.fit(kept)
        scored = self.score_series(*val)
        there = ~np.isnan(scored.score)
        validation = timed_scores(scored, val[0].time_dtype)
        pooled = self.threshold.fit_assets(validation)
        self.rarity = Rarity(validation)
        values = self.drift_values(val[0], scored)
        years = self.rarity.bars_per_year()
        times = microseconds(scored.times, val[0].time_dtype)
        self.reference = fit_reference(times, scored.asset, values, scored.names, self.features, years)
        tell_pooled(pooled, self.rarity, type(self.threshold).__name__)
        flagged = self.flag(scored)[1]
        kept = there | np.concatenate([[False], there[:-1]])  # a row without score keeps two runs apart
        self.validation = {
            "level": float(self.threshold.level),
            "levels": {name: float(own.level) for name, own in self.threshold.own.items()},
            "bars": int(there.sum()),
            "flagged": int(flagged.sum()),
            **alarm_rate(flagged, scored, val[0].time_dtype).named(),
            "moments": validation.moments,
            "days": validation.days,
            "span_seconds": validation.span,
            "bar_seconds": bar_seconds(scored.times, scored.asset, val[0].time_dtype),
            "scores": torch.from_numpy(scored.score[kept]),
            "asset": torch.from_numpy(scored.asset[kept].astype(np.int32)),
            "asset_names": list(scored.names),
            "tails": self.rarity.state(),
            "drift": None if self.reference is None else self.reference.state(),
        }
        return self

    # ---- score -------------------------------------------------------------------------------------------------------

    def score(self, bars: pl.DataFrame) -> np.ndarray:
        """Score canonical bars.

        Returns:
            (N,) float64, one for each row of the bars in its order; NaN where no window holds the bar.
        """
        piece = unsplit_series(bars, self.recipe, self.scaler)
        scored = self.score_series(piece.series, piece.segments, piece.origin, short_runs=piece.short_runs)
        result = np.full(bars.height, np.nan)
        kept = scored.origin >= 0
        result[scored.origin[kept]] = scored.score[kept]
        return result

    def score_series(
        self,
        series: Series,
        segments: np.ndarray,
        origin: np.ndarray | None = None,
        progress: Callable[[int], None] = lambda rows: None,
        watch: Watch | None = None,
        short_runs: ShortRuns | None = None,
    ) -> Scores:
        """Score all rows of a series.

        Args:
            series: scaled; R rows.
            segments: (S, 2) first row and number of rows of each run that windows are cut from.
            origin: (R, K) row of the table that each row was made from, -1 for none; None: not known.
            progress: gets the number of rows that are done.
            watch: sees all windows and what the model makes of them, some at a time, in any order and thread.
            short_runs: windows for the rows that no other window holds.

        Returns:
            Scores of N = R bars, or N = K R of a panel, asset after asset.
        """
        values, reconstruction, asset = self._bars(series, segments, progress, watch, short_runs)
        values = values.double()
        contributions = self.score_function.contributions(values, asset).numpy()
        return Scores(
            score=contributions.sum(axis=1),
            contributions=contributions,
            reconstruction=reconstruction.numpy(),
            named=self.score_function.name_bars(values),
            asset=asset,
            times=np.tile(series.times, len(values) // max(1, len(series.times))),
            origin=np.full(len(values), -1) if origin is None else origin.T.reshape(-1),
            names=series.asset_names if self.recipe.layout != "panel" else self.panel_assets,
        )

    def drift_values(self, series: Series, scored: Scores) -> np.ndarray:
        """Return what the test of drift looks at: score and features of each bar, (N, 1 + F); NaN without a score.

        Args:
            series: scaled.
            scored: its N scores.
        """
        features = series.values.cpu()
        if self.recipe.layout == "panel":
            features = self.by_asset(features)
        return np.concatenate([scored.score[:, None], features.numpy()], axis=1, dtype=np.float64)

    def flag(self, scored: Scores) -> tuple[np.ndarray, np.ndarray]:
        """Compare scores with their levels.

        Args:
            scored: scores of N bars.

        Returns:
            Levels (N,) float64 and verdicts (N,) bool.
        """
        levels = np.empty(len(scored.score))
        for rows in asset_rows(scored.asset):
            threshold = self.threshold.of(scored.names[int(scored.asset[rows.start])])
            levels[rows] = threshold.levels(scored.score[rows], None)[0]
        with np.errstate(invalid="ignore"):
            return levels, scored.score > levels

    def _bars(
        self,
        series: Series,
        segments: np.ndarray,
        progress: Callable[[int], None] = lambda rows: None,
        watch: Watch | None = None,
        short_runs: ShortRuns | None = None,
    ) -> tuple[Tensor, Tensor, np.ndarray]:
        """Measure each bar of an asset: its values (N, C), its reconstruction (N, F), and its asset's number (N,).

        N = R, or K R for a panel: asset after asset.
        """
        values, reconstruction = self.measurer.values(series, segments, progress, watch, short_runs)
        R = len(values)
        if self.recipe.layout != "panel":
            return values, reconstruction, np.searchsorted(series.asset_starts, np.arange(R), side="right") - 1
        K = len(self.columns) // len(self.features)
        if self.score_function.reads_planted:  # the values of an asset stand together
            values = values.view(R, K, -1).transpose(0, 1).reshape(K * R, -1)
        else:
            values = self.by_asset(values) if self.score_function.names_features else values.repeat(K, 1)
        # an asset without a bar at that moment
        lacking = (self.by_asset(series.values.cpu()) == 0).all(dim=1, keepdim=True)
        made = self.by_asset(reconstruction)
        values, reconstruction = (part.masked_fill(lacking, torch.nan) for part in (values, made))
        return values, reconstruction, np.repeat(np.arange(K), R)

    def by_asset(self, columns: Tensor) -> Tensor:
        """Turn the rows of a panel (R, K F) into those of its assets, one after another (K R, F).

        Errors of both kinds, (R, 2 K F), come to stand side by side, (K R, 2 F).
        """
        R, K, F = len(columns), len(self.columns) // len(self.features), len(self.features)
        return columns.view(R, -1, K, F).permute(2, 0, 1, 3).reshape(K * R, -1)

    # ---- the model -------------------------------------------------------------------------------------------------

    @property
    def measurer(self) -> Measurer:
        """The object that puts windows through the model, with the parts that the detector has now."""
        return Measurer(
            autoencoder=self.autoencoder,
            scaler=self.scaler,
            score=self.score_function,
            alignment=self.alignment,
            window_size=self.recipe.window_size,
            num_features=len(self.features),
            batch=self.batch,
            workers=self.workers,
        )

    def encode(self, windows: Windows, number: np.ndarray) -> Tensor:
        """Encode some windows without decoding them; see `Measurer.encode`."""
        return self.measurer.encode(windows, number)

    def reconstruct(self, windows: Windows, number: np.ndarray, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Run the model on some windows; see `Measurer.reconstruct`."""
        return self.measurer.reconstruct(windows, number, mask)

    # ---- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what was fitted, and for which parts, as plain values and tensors."""
        return {
            "format": FORMAT,
            "alignment": self.alignment,
            "columns": list(self.columns),
            "score": {"class": type(self.score_function).__name__, **self.score_function.state_dict()},
            "threshold": {"class": type(self.threshold).__name__, **self.threshold.state_dict()},
            "validation": self.validation,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what was fitted.

        Raises:
            ConfigError: it was fitted for another score, threshold or alignment, or by another version.
        """
        if state.get("format") != FORMAT:
            raise ConfigError(
                f"the run's detector is of format {state.get('format')}; this version of refold reads {FORMAT}: choose "
                f"score, threshold or alignment anew, or train again"
            )
        found = state["score"]["class"], state["threshold"]["class"], state["alignment"]
        own = type(self.score_function).__name__, type(self.threshold).__name__, self.alignment
        if found != own:
            told = f"the run's detector is {', '.join(found)}; its settings say {', '.join(own)}"
            raise ConfigError(told.encode("unicode_escape").decode())  # a terminal obeys escape sequences
        self.columns = list(state["columns"])
        self.validation = state["validation"]
        self.rarity = Rarity(known_scores(self.validation), self.validation["tails"])
        drift = self.validation["drift"]
        self.reference = None if drift is None else Reference.from_state(drift)
        for part, name in ((self.score_function, "score"), (self.threshold, "threshold")):
            part.load_state_dict({key: value for key, value in state[name].items() if key != "class"})
        self._rehearse()

    def _rehearse(self) -> None:
        """Use what was restored once, so that what does not fit is found before any bar is scored.

        Raises:
            ValueError: a level is NaN, or the scores of validation do not fit each other.
            Exception: of torch, NumPy or Python, for tensors of other shapes and values of other types.
        """
        known = known_scores(self.validation)
        if len(known.scores) != len(known.asset):
            raise ValueError(f"{len(known.scores)} validation scores are of {len(known.asset)} bars")
        if known.moments < 0 or known.span < 0:
            raise ValueError(f"its validation part has {known.moments} moments in {known.span} seconds")
        probe = np.array([0.0, 1.0, 1e9])
        for name, threshold in {"": self.threshold, **self.threshold.own}.items():
            if np.isnan(float(threshold.level)) or np.isnan(threshold.levels(probe, None)[0]).all():
                raise ValueError(f"the level {f'of {name!r} ' if name else ''}is NaN, and no score passes it")
        if self.rarity is not None:
            self.rarity.check()
        if self.score_function.names_features:
            both = 2 if self.score_function.errors_of == "both" else 1
            width = self.score_function.value_columns(len(self.features), len(self.features))
            values = torch.zeros(2, both * width, dtype=torch.float64)
            self.score_function.contributions(values, np.zeros(2, dtype=int))
