"""Preservation of neighbours: the nearest windows of a window, compared with the nearest codes of its code.

Legend: N windows, D numbers of a window, Z numbers of a code.
"""

import numpy as np

K = 10
"""Neighbours of a window that are looked for."""


def neighbour_preservation(windows: np.ndarray, codes: np.ndarray) -> float:
    """Measure which share of each window's 10 nearest others are among the 10 nearest of its code too.

    Codes that say nothing reach about 10 / (N - 1). Distances are Euclidean.

    Args:
        windows: (N, D).
        codes: (N, Z), of the same windows.

    Returns:
        The mean over the windows, in [0, 1]; NaN for fewer than 3 windows.
    """
    from sklearn.neighbors import NearestNeighbors  # a second to import

    k = min(K, len(windows) - 2)  # with N - 1 all others would be neighbours, whatever the codes
    if k < 1:
        return float("nan")
    (near, near_codes) = (
        NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False) for points in (windows, codes)
    )
    shared = (near[:, :, None] == near_codes[:, None, :]).any(axis=2)  # (N, k, 1) with (N, 1, k) -> (N, k)
    return float(shared.mean())
