"""Scores by the errors of a predictor: of each bar as the windows that end before it predicted it.

    bars of the series      0    1    2    3    4    5
    window 0  (T = 3)      [           ]  a0   a1               P = 2 bars after each window are predicted
    window 1                    [           ]  b0   b1
    window 2                         [           ]  c0

    bar 4 is predicted by windows 0 and 1: its errors are a1 and b0, of two steps ahead and of one

`alignment` makes one error of them: `mean`, `median` or `max` of those there are, or under `last` that of the newest
window, one step ahead. The first T bars of a run come after no window, and have no score.

**In a stream** nothing waits. What can be said of a bar was known before it came: the predictions of the last P windows
for it. When a bar arrives its score is final, under every alignment, without a decoder being run; the window that ends
at it is then encoded and decoded once, for the P bars to come. `CompositeScore` waits for what the alignment of
the reconstruction waits for: under `last` for nothing.

Letters: T bars in a window, P bars after a window, N bars of some assets, F features.
"""

import numpy as np
import torch
from torch import Tensor

from refold.scoring.scores.student import StudentScore


class PredictionScore(StudentScore):
    """Score a bar by how surprising it is after the windows that end before it; it looks at no later bar.

    The signed errors of the prediction, aligned, are judged along their principal directions as `StudentScore` judges
    those of the reconstruction. An error that a window shows to the model can be reconstructed; one that came after
    the window cannot have been predicted. In a stream the score is there as soon as the bar is: see above.
    """

    errors_of = "prediction"


class CompositeScore(StudentScore):
    """Score a bar by its errors of reconstruction and of prediction together, 2 F numbers along their directions.

    Where both are large the bar is far from what came before it and from what stands around it; where they disagree,
    the directions say how unusual that is. A feature's contribution is the sum of its two.
    """

    errors_of = "both"

    def contributions(self, values: Tensor, asset: np.ndarray) -> Tensor:
        return torch.stack(super().contributions(values, asset).chunk(2, dim=1)).sum(dim=0)  # (N, 2 F) -> (N, F)
