"""Hydra's callback of `experiment=price_errors`: the table of planted errors after a run, or after a sweep."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class ErrorsTable(Callback):
    """Print the table of planted errors in the first process, after a run or after the last run of a sweep."""

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        _finish(config.hydra.runtime.output_dir)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        _finish(config.hydra.sweep.dir)


def _finish(directory: str) -> None:
    from refold.studies.errors_table import finish  # brings torch; Hydra imports this file before it needs any

    finish(Path(directory))
