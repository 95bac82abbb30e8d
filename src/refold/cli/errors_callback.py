"""Hydra's callbacks of `experiment=scorers` and `price_errors`: their tables after a run, or after a sweep."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class ScorersTable(Callback):
    """Print the table of planted errors in the first process, after a run or after the last run of a sweep."""

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        self.finish(Path(config.hydra.runtime.output_dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        self.finish(Path(config.hydra.sweep.dir))

    def finish(self, directory: Path) -> None:
        """Print the table of the runs in a directory.

        Args:
            directory: of one run, or of a sweep.
        """
        from refold.studies.scorers_table import finish  # brings torch; Hydra imports this file before it needs any

        finish(directory)


class PriceErrorsTable(ScorersTable):
    """Print the tables of the named verdict likewise."""

    def finish(self, directory: Path) -> None:
        from refold.studies.price_errors_table import finish

        finish(directory)
