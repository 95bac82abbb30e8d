"""A score of windows that are strange as a whole, even if they are reconstructed well."""

from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from refold.bounds import at_least, checked
from refold.scoring.scores.base_score import Score


class LatentNeighbours(Score):
    """Score a window by the mean distance of its code to the k nearest codes of training windows.

    Codes are divided by their standard deviation over training windows, number by number. All bars of a window have its
    distance; the alignment then makes one of the distances of all windows that hold a bar. No feature is to blame.

    Args:
        neighbours: k, at least 1.
        references: training codes that are kept, spread evenly over all of them; at least k.
    """

    reads_codes = True
    names_features = False
    tensors = ("reference", "deviation")

    @checked("score")
    def __init__(self, *, neighbours: Annotated[int, at_least(1)], references: Annotated[int, at_least(1)]) -> None:
        if references < neighbours:
            raise ValueError(f"score.references is {references}; it must be at least score.neighbours, {neighbours}")
        self.neighbours = neighbours
        self.references = references

    def fit_codes(self, codes: Tensor) -> None:
        self.deviation = codes.std(dim=0, correction=0).clamp(min=1e-12)
        chosen = torch.linspace(0, len(codes) - 1, min(len(codes), self.references)).long()
        self.reference = codes[chosen] / self.deviation

    def measure(self, windows: Tensor, reconstruction: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        # float64: torch takes a product of matrices for the distances of many codes, which costs float32 two digits
        reference = self.reference.to(codes.device).double()
        distances = torch.cdist((codes / self.deviation.to(codes.device)).double(), reference)
        nearest = distances.topk(min(self.neighbours, len(reference)), dim=1, largest=False).values.mean(dim=1)
        return nearest.to(windows.dtype)[:, None, None].expand(-1, windows.shape[1], 1)  # (B,) -> (B, T, 1)

    def contributions(self, values: Tensor, asset: np.ndarray) -> Tensor:
        return values
