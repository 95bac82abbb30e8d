"""A trained run as one graph: scaler, autoencoder and score of a window.

Letters: B windows, T bars, F features, Z numbers of a code, K assets of a panel, C values of a bar.

    features (B, T, F) -> reconstruction (B, T, F), code (B, Z), score (B, T), or (B, T, K) of a panel
                          and of a model with a predictor: prediction (B, P, F), the P bars after the window
    asset (B,)            goes in beside the features where each asset has a scale of its own

Features go in and come out in their own units. The LSTMs of the graph are one opaque operator (models/portable.py).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from refold.data.bars.entries import find_feature
from refold.data.windows.scaler import AssetScaler, Scaler, TrailingScaler
from refold.errors import ConfigError
from refold.models.portable import portable
from refold.scoring.detector import Detector
from refold.scoring.protocols import TrainedRun
from refold.scoring.scores import GaussStatic, LatentNeighbours, Mahalanobis, Score


def fitted_detector(run: TrainedRun) -> Detector:
    """Return the run's detector.

    Raises:
        ConfigError: the run did not come to its end, and has none.
    """
    if run.detector is None:
        raise ConfigError(f"{run.directory} has no fitted score; it gets one at the end of its training")
    return run.detector


def scaled_assets(run: TrainedRun) -> list[str] | None:
    """List the assets that have a scale of their own, in the order of their numbers; None if all have one scale.

    Raises:
        ConfigError: the scale of a bar depends on bars that its window does not hold.
    """
    if isinstance(run.scaler, TrailingScaler):
        lookback = run.config.data.scale_lookback
        raise ConfigError(
            f"data.scale is trailing: each bar is scaled by the {lookback} bars before it, which a window alone does "
            "not hold. Train with data.scale=per_asset to export, or score with scripts/score.py"
        )
    return list(run.scaler.own) if isinstance(run.scaler, AssetScaler) else None


def scales_of(run: TrainedRun, names: Sequence[str]) -> list[Scaler]:
    """Return the scale of each asset, which is that of all where they have one together."""
    scaler = run.scaler
    return [scaler.of(name) if isinstance(scaler, AssetScaler) else scaler for name in names]


def portable_log_survival(z: Tensor) -> Tensor:
    """Return -ln(1 - Phi(z)), to 2e-6, with operators that ONNX has.

    They are erf up to z = 2 and Laplace's continued fraction beyond.
    """
    near = -torch.log(0.5 * (1 - torch.erf(z.clamp(max=2.0).float() / math.sqrt(2))))
    far = z.clamp(min=2.0)
    fraction = far
    for n in range(30, 0, -1):
        fraction = far + n / fraction
    return torch.where(z < 2, near.to(z.dtype), far.square() / 2 + math.log(math.sqrt(2 * math.pi)) + fraction.log())


def _squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Return all squared distances (B, n) between rows (B, Z) and (n, Z).

    It is a product of float64 matrices: torch.cdist branches on B, which a graph cannot.
    """
    left, right = left.double(), right.double()
    squares = left.square().sum(1, keepdim=True) + right.square().sum(1)
    return (squares - 2 * left @ right.T).clamp(min=0)


class _Scored(nn.Module):
    """Score the bars of lone windows.

    Args:
        score: fitted.

    Raises:
        ConfigError: the score of a bar depends on bars that its window does not hold.
    """

    precision: Tensor

    def __init__(self, score: Score) -> None:
        super().__init__()
        if score.before or score.after:
            after = f" and the {score.after} after it" if score.after else ""
            raise ConfigError(
                f"score is {type(score).__name__}: it compares a bar with the {score.before} before it{after}, which a "
                "window alone does not hold. Export a run with another one, such as score=gauss_s, or score with "
                "scripts/score.py"
            )
        if score.predicts:
            raise ConfigError(
                f"score is {type(score).__name__}: it compares a bar with what windows before it predicted, which a "
                "window alone does not hold. Export a run with another one, such as score=student: the file predicts "
                "all the same; or score with scripts/score.py"
            )
        if score.reads_windows:
            raise ConfigError(
                f"score is {type(score).__name__}: it has a model of its own, which a file of the autoencoder does not "
                "hold. Export a run with another one, such as score=gauss_s, or score with scripts/score.py"
            )
        if score.reads_planted:
            raise ConfigError(
                f"score is {type(score).__name__}: an exported file has one score for a bar and no named kinds. Export "
                "a run with another one, such as score=mahalanobis, or score with scripts/score.py"
            )
        self.score = score
        if isinstance(score, Mahalanobis):
            self.register_buffer("precision", torch.cholesky_inverse(score.factor))

    def measure(self, scaled: Tensor, made: Tensor, code: Tensor) -> Tensor:
        """Compute the quantities that the score is made from, for each bar, (B, T, C) float64."""
        score = self.score
        if isinstance(score, LatentNeighbours):
            distances = _squared_distances(code / score.deviation, score.reference).sqrt()
            nearest = distances.topk(min(score.neighbours, len(score.reference)), dim=1, largest=False).values.mean(1)
            return nearest[:, None, None].expand(-1, scaled.shape[1], 1)
        return score.measure(scaled, made, code).double()

    def contributions(self, values: Tensor) -> Tensor:
        """Return the contributions of values (..., C), in the same shape; their sum over C is the score."""
        score = self.score
        if isinstance(score, Mahalanobis):
            deviation = values - score.mean
            return deviation * (deviation @ self.precision)
        if isinstance(score, GaussStatic):
            variance = score.mean_square - score.mean.square()
            return portable_log_survival((values - score.mean) / variance.clamp(min=0).sqrt().clamp(min=score.floor))
        return score.contributions(values.flatten(0, -2), np.zeros(0, dtype=np.int64)).view_as(values)


class Portable(nn.Module):
    """Put windows through scaler, autoencoder and score. Every bar of a window must be there.

    Args:
        run: a run with a fitted detector.

    Raises:
        ConfigError: the scale or the score of a bar depends on bars that its window does not hold.
    """

    means: Tensor  # (1, F) of all assets, or (A + 1, F) of each, with that of all assets as the last row
    stds: Tensor

    def __init__(self, run: TrainedRun) -> None:
        super().__init__()
        detector = fitted_detector(run)
        self.autoencoder = portable(run.autoencoder)
        self.scored = _Scored(detector.score_function)
        scales = [*scales_of(run, scaled_assets(run) or ()), run.scaler]
        self.register_buffer("means", torch.stack([one.mean for one in scales]))
        self.register_buffer("stds", torch.stack([one.std for one in scales]))
        self.relative = relative_columns(run)
        self.width = len(detector.features)  # columns of one asset
        self.panel = detector.recipe.layout == "panel"
        self.requires_grad_(False)

    def forward(self, features: Tensor, asset: Tensor | None = None) -> tuple[Tensor, ...]:
        mean, std = self.means, self.stds
        if asset is not None:
            mean, std = mean[asset].unsqueeze(1), std[asset].unsqueeze(1)  # (B,) -> (B, 1, F); -1 takes the last row
        scaled = (features.double() - mean) / std
        if self.relative:  # of these a window sees only the distance to its first bar
            first = torch.zeros_like(self.means[0])
            first[list(self.relative)] = 1.0
            scaled = scaled - scaled[:, :1] * first
        scaled = scaled.to(features.dtype)
        code = self.autoencoder.encode(scaled)
        made = self.autoencoder.decode(code, features.shape[1])
        values = self.scored.measure(scaled, made, code)
        if self.panel and self.scored.score.names_features:
            values = values.unflatten(2, (-1, self.width))  # (B, T, K F) -> (B, T, K, F)
        elif self.panel:
            values = values.unsqueeze(2)  # one for all assets: (B, T, 1, 1)
        score = self.scored.contributions(values).sum(-1)
        outputs = (made * std + mean).to(features.dtype), code, score.to(features.dtype)
        if not self.autoencoder.horizon:
            return outputs
        return *outputs, (self.autoencoder.predict(code) * std + mean).to(features.dtype)


def relative_columns(run: TrainedRun) -> list[int]:
    """List the columns that a window holds only relative to its first bar (`Feature.relative`)."""
    own = [find_feature(entry).relative for entry in fitted_detector(run).recipe.entries or ()]
    return [column for column in range(len(run.scaler.mean)) if own[column % len(own)]]


def scale_of_windows(run: TrainedRun, asset: Tensor | None = None) -> Scaler:
    """Return the run's own scale of windows.

    Args:
        run: whose scale is not trailing.
        asset: (B,) int64, places in `scaled_assets`, -1 for any other asset; None where all have one scale.
    """
    names = scaled_assets(run)
    if names is None or asset is None:
        return run.scaler
    known = scales_of(run, names)
    scales = [known[n] if n >= 0 else run.scaler for n in asset.tolist()]
    means, stds = torch.stack([one.mean for one in scales]), torch.stack([one.std for one in scales])
    return Scaler(means[:, None], stds[:, None])  # (B, F) -> (B, 1, F)


@torch.inference_mode()
def reference(run: TrainedRun, features: Tensor, asset: Tensor | None = None) -> tuple[Tensor, ...]:
    """Compute what `Portable` computes, with the parts of the run themselves."""
    detector = fitted_detector(run)
    scaler = scale_of_windows(run, asset)
    scaled = scaler.transform(features)
    for column in relative_columns(run):
        scaled[..., column] -= scaled[:, :1, column].clone()
    code = run.autoencoder.encode(scaled)
    made = run.autoencoder.decode(code, features.shape[1])
    score = detector.score_function
    values = score.measure(scaled, made, code)
    B, T, C = values.shape
    panel, width = detector.recipe.layout == "panel", len(detector.features)
    values = values.reshape(B * T, -1, width if panel and score.names_features else C)  # (B T, K, C)
    rows = values.shape[0] * values.shape[1]
    contributions = score.contributions(values.flatten(0, 1).double(), np.zeros(rows, dtype=np.int64))
    scores = contributions.sum(1).view(B, T, -1)
    outputs = scaler.inverse_transform(made), code, (scores if panel else scores.squeeze(2)).to(features.dtype)
    if not run.autoencoder.horizon:
        return outputs
    return *outputs, scaler.inverse_transform(run.autoencoder.predict(code))
