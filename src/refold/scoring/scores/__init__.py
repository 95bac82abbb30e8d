"""Scores: one number for each bar and its reconstruction, larger = stranger. One class and one YAML each."""

from refold.scoring.scores.base_score import Score
from refold.scoring.scores.cloze import ClozeScore
from refold.scoring.scores.gauss import GaussDynamic, GaussDynamicKernel, GaussStatic
from refold.scoring.scores.latent import LatentNeighbours
from refold.scoring.scores.mahalanobis import Mahalanobis
from refold.scoring.scores.plain_errors import AbsoluteError, SquaredError
from refold.scoring.scores.planted import PlantedErrors
from refold.scoring.scores.predicted import CompositeScore, PredictionScore
from refold.scoring.scores.student import FeatureScore, StudentScore

__all__ = [
    "AbsoluteError",
    "ClozeScore",
    "CompositeScore",
    "FeatureScore",
    "GaussDynamic",
    "GaussDynamicKernel",
    "GaussStatic",
    "LatentNeighbours",
    "Mahalanobis",
    "PlantedErrors",
    "PredictionScore",
    "Score",
    "SquaredError",
    "StudentScore",
]
