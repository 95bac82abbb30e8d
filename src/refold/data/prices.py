"""Back from features to prices, so that a reconstruction can be shown in the units that a trader reads."""

from collections.abc import Sequence

import torch
from torch import Tensor

from refold.errors import DataError


def to_prices(values: Tensor, names: Sequence[str], last_close: Tensor) -> dict[str, Tensor]:
    """Open, high, low and close of windows, as far as their features tell them.

    The close follows from log_return, or else from overnight_return and intraday_return; open, high and low from it and
    overnight_return, high_return and low_return. Errors of returns add up along the window, as they do for whoever
    trades.

    Args: values: (B, T, F) in the units of the features (`Scaler.inverse_transform`), no bar absent. names: the F
        feature names. last_close: (B,) the close right before each window (`Windows.last_close`).
    Returns: name of the price -> (B, T), in the units of last_close.
    Raises: DataError: the features do not tell the close.
    """
    by_name = dict(zip(names, values.double().unbind(dim=-1), strict=True))
    if "log_return" in by_name:
        returns = by_name["log_return"]
    elif {"overnight_return", "intraday_return"} <= by_name.keys():
        returns = by_name["overnight_return"] + by_name["intraday_return"]
    else:
        raise DataError(
            f"data.features is [{', '.join(names)}]; prices follow from log_return, or from overnight_return and "
            f"intraday_return"
        )
    close = last_close.double()[:, None] * returns.cumsum(dim=1).exp()
    before = torch.cat([last_close.double()[:, None], close[:, :-1]], dim=1)  # (B, T) close of the bar before each
    prices = {"close": close}
    for name, feature in (("open", "overnight_return"), ("high", "high_return"), ("low", "low_return")):
        if feature in by_name:
            prices[name] = before * by_name[feature].exp()
    return prices
