"""Hash the bars that windows are cut from, so that a run knows its own data again."""

import hashlib
from itertools import pairwise

import numpy as np
import polars as pl

from refold.data.bars.table import LABEL


def hash_bars(digest: hashlib.blake2b, bars: pl.DataFrame) -> None:
    """Feed all values of sorted bars, but not what is known of them, to a hash, one asset after the other.

    Args:
        digest: the hash.
        bars: canonical, sorted by asset, then time.
    """
    starts = bars["asset"].rle_id().to_numpy()
    starts = np.flatnonzero(np.diff(starts, prepend=-1)).tolist()
    for start, end in pairwise([*starts, bars.height]):
        digest.update(str(bars["asset"][start]).encode())
        for column in bars[start:end].drop("asset", LABEL, strict=False):
            digest.update(f"{column.name} {column.dtype.base_type()}".encode())
            digest.update(np.ascontiguousarray(column.to_physical().to_numpy()).data)
