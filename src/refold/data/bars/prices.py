"""Convert features back to prices, so that a reconstruction can be shown in the units that a trader reads."""

from collections.abc import Sequence

import torch
from torch import Tensor

from refold.errors import DataError


def to_prices(
    values: Tensor, names: Sequence[str], last_close: Tensor, first_close: Tensor | None = None
) -> dict[str, Tensor]:
    """Compute the open, high, low and close of windows from their features.

    The close follows from window_log_price, each bar by itself, if the close of the window's first bar is given.
    Otherwise it follows from log_return, or from overnight_return and intraday_return; their errors add up along the
    window, as they do for a trader. Open, high and low follow from the close before and from overnight_return,
    high_return and low_return.

    Args:
        values: (B, T, F) in the units of the features (`Scaler.inverse_transform`), without absent bars.
        names: the F feature names.
        last_close: (B,) the close right before each window (`Windows.last_close`).
        first_close: (B,) the close of each window's first bar (`Windows.first_close`), or None.

    Returns:
        Name of the price -> (B, T) float64, in the units of the closes. Prices without a feature are left out.

    Raises:
        DataError: the close does not follow from the features.
    """
    by_name = dict(zip(names, values.double().unbind(dim=-1), strict=True))
    if "window_log_price" in by_name and first_close is not None:
        close = first_close.double()[:, None] * by_name["window_log_price"].exp()
    elif "log_return" in by_name:
        close = last_close.double()[:, None] * by_name["log_return"].cumsum(dim=1).exp()
    elif {"overnight_return", "intraday_return"} <= by_name.keys():
        returns = by_name["overnight_return"] + by_name["intraday_return"]
        close = last_close.double()[:, None] * returns.cumsum(dim=1).exp()
    else:
        raise DataError(
            f"data.features is [{', '.join(names)}]; prices follow from log_return, from overnight_return and "
            f"intraday_return, or from window_log_price and the close of the window's first bar"
        )
    before = torch.cat([last_close.double()[:, None], close[:, :-1]], dim=1)  # (B, T) close of the bar before each
    prices = {"close": close}
    for name, feature in (("open", "overnight_return"), ("high", "high_return"), ("low", "low_return")):
        if feature in by_name:
            prices[name] = before * by_name[feature].exp()
    return prices
