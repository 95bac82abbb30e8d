"""Projection of codes of many numbers on a flat map."""

import numpy as np


def first_two_axes(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project codes on their first two principal axes.

    Args:
        codes: (N, Z), N and Z at least 1.

    Returns:
        Places (N, 2) float64, 0 on the second axis where Z is 1; the axes' shares of the variance (2,), in [0, 1].
    """
    centred = np.asarray(codes, dtype=np.float64) - np.mean(codes, axis=0, dtype=np.float64)
    variances, axes = np.linalg.eigh(centred.T @ centred)  # ascending; (Z, Z), cheap at any N
    order = np.argsort(variances)[::-1][:2]
    places, shares = np.zeros((len(centred), 2)), np.zeros(2)
    places[:, : len(order)] = centred @ axes[:, order]
    total = variances.clip(min=0).sum()
    shares[: len(order)] = variances[order].clip(min=0) / total if total > 0 else 0.0
    return places, shares
