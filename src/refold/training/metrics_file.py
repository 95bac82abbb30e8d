"""Write and read metrics.csv, the file of a run with one row per logged step."""

import csv
import io
from argparse import Namespace
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from refold.errors import RefoldError
from refold.runs.directory import write_atomically


class MetricsFile(Logger):
    """Write one row per logged step to a CSV file during the run, columns in order of first appearance.

    A resumed run goes on in the same file; the rows that it is about to repeat are dropped first. (Lightning's own CSV
    logger deletes the file that it finds.)

    Args:
        path: path of the file; its folder exists.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.columns = ["epoch", "step"]
        self.opened = False

    @property
    def name(self) -> None:
        """None; the run directory has the name."""

    @property
    def version(self) -> None:
        """None; the run directory has the version."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if not self.opened:
            self._open(before_step=step or 0)
        row = {"step": step, **metrics}
        new_columns = [name for name in row if name not in self.columns]
        if new_columns:
            self.columns += new_columns
            self._rewrite([*self._rows(), row])
            return
        try:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        except OSError as error:
            raise RefoldError(f"{self.path} cannot be written: {error.strerror}") from error

    @rank_zero_only
    def log_end_row(self, metrics: dict[str, float], step: int) -> None:
        """Write the row of a run's end. A run that resumes after its last step keeps all rows but that of a cut end.

        Args:
            metrics: name -> value; no other row has these names.
            step: the last optimizer step.
        """
        if not self.opened:
            self._open(before_step=step + 1, without=set(metrics))
        self.log_metrics(metrics, step)

    def _open(self, before_step: int, without: Set[str] = frozenset()) -> None:
        """Read the rows of an earlier part of the run, and write those before a step again.

        Args:
            before_step: rows from this step on are dropped.
            without: names; rows that have a value under one of them are dropped, too.
        """
        self.opened = True
        rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                self.columns = list(csv.DictReader(file).fieldnames or self.columns)
            kept = [row for row in self._rows() if row["step"] and int(row["step"]) < before_step]
            rows = [row for row in kept if not any(row.get(name) for name in without)]
        self._rewrite(rows)

    def _rows(self) -> list[dict[str, Any]]:
        """Read the rows so far. They stay in the file between two new columns: a long run writes very many."""
        if not self.path.exists():  # somebody removed it while the run went on
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write all rows again, under all columns."""
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self.columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, table.getvalue())

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Do nothing: resolved.yaml, beside this file, has the settings."""


def last_logged(metrics_csv: Path) -> tuple[int, set[str]]:
    """Read the last step of a metrics.csv, and the names that have a value there.

    Args:
        metrics_csv: the file.

    Returns:
        Step and names; -1 and none without a file or rows.
    """
    if not metrics_csv.is_file():
        return -1, set()
    with metrics_csv.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["step"]]
    last = max((int(row["step"]) for row in rows), default=-1)
    return last, {name for row in rows if int(row["step"]) == last for name, value in row.items() if value}
