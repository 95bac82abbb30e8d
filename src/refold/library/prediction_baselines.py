"""Baselines that a predictor has to beat, measured on the bars after the windows of validation and test."""

from typing import Any

from refold.data import WindowDataModule, Windows
from refold.scoring.forecasts import Forecast, LastValue, MeanAhead, Ridge, batches


def measure_prediction_baselines(data: WindowDataModule) -> dict[str, Any] | None:
    """Fit the baselines of prediction on the training windows, and measure them by the metrics of the model.

    Args:
        data: set up.

    Returns:
        "horizon", and "baselines": last_value, mean and ridge -> `split/prediction_mse`, `split/prediction_r2` and R2
        of each step ahead; NaN where there is none. None without a predictor.
    """
    train = data.train_windows
    if not train.horizon:
        return None
    fitted = {"last_value": LastValue(train.horizon), "mean": MeanAhead().fit(train), "ridge": Ridge().fit(train)}
    parts = {"val": data.val_windows, "test": data.test_windows}
    measured = {
        name: {
            f"{split}/{quantity}": value
            for split, windows in parts.items()
            for quantity, value in prediction_error(forecast, windows).items()
        }
        for name, forecast in fitted.items()
    }
    return {"horizon": train.horizon, "baselines": measured}


def prediction_error(forecast: Forecast, windows: Windows) -> dict[str, float]:
    """Measure a fitted baseline on the bars after windows.

    Args:
        forecast: fitted.
        windows: at least one, with a horizon.

    Returns:
        Quantity -> value, as `PredictionError` names them.
    """
    from refold.training.reconstruction_metrics import PredictionError  # brings torchmetrics

    error = PredictionError(windows.series.values.shape[1], windows.horizon, sync_on_compute=False)
    for index in batches(windows):
        (bars, there), mask = windows.ahead(index), windows.mask(index)
        made = forecast.predict(windows.gather(index).cpu(), mask if mask is None else mask.cpu())
        error.update(made, bars.cpu(), there if there is None else there.cpu())
    return {name: float(value) for name, value in error.compute().items()}
