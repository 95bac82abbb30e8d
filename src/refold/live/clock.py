"""Times of live bars as whole microseconds, and back: dates, datetimes without a zone, or with one."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

DATES, NAIVE = "dates", "naive"
"""Kinds of times beside the names of zones."""

_EPOCH, _AWARE = datetime(1970, 1, 1), datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US, _FIRST = 86_400_000_000, date(1970, 1, 1).toordinal()


class Clock:
    """Turn times into microseconds since 1970 and back. The first time says of which kind all are.

    Attributes:
        kind: DATES, NAIVE or the name of a zone; None before the first time.
    """

    def __init__(self, kind: str | None = None) -> None:
        self.kind = kind
        self._last: tuple[int, date | datetime] | None = None

    @property
    def dtype(self) -> pl.DataType:
        """The dtype that the times have in tables."""
        if self.kind == DATES:
            return pl.Date()
        return pl.Datetime("us", None if self.kind in (None, NAIVE) else self.kind)

    def read(self, when: date | datetime) -> int:
        """Return a time in microseconds.

        Args:
            when: of the kind of the first one; a date counts as its midnight where times have no zone.

        Raises:
            ValueError: the time is of another kind. The message says so.
        """
        if not isinstance(when, datetime):
            self._expect(DATES, when)
            return (when.toordinal() - _FIRST) * _DAY_US
        if when.tzinfo is None:
            self._expect(NAIVE, when)
            gone = when - _EPOCH
        else:
            self._expect(getattr(when.tzinfo, "key", "UTC"), when)
            gone = when - _AWARE
        return gone.days * _DAY_US + gone.seconds * 1_000_000 + gone.microseconds

    def read_series(self, times: pl.Series) -> np.ndarray:
        """Return times of a table in microseconds, (N,) int64.

        Raises:
            ValueError: they are of another kind than those before, or finer than a microsecond.
        """
        if times.dtype == pl.Date:
            self._expect(DATES, "the table's dates")
        else:
            assert isinstance(times.dtype, pl.Datetime)
            self._expect(times.dtype.time_zone or NAIVE, "the table's times")
            if times.dtype.time_unit == "ns" and (times.to_physical() % 1000 != 0).any():
                raise ValueError("the table has times finer than a microsecond, which live bars cannot have")
        return times.cast(pl.Datetime("us")).to_physical().to_numpy().astype(np.int64)

    def _expect(self, kind: str, when: object) -> None:
        """Settle the kind, or refuse a time of another one; zones differ in name alone."""
        if self.kind is None:
            self.kind = kind
        zoned, known = kind not in (DATES, NAIVE), self.kind not in (DATES, NAIVE)
        midnight = {kind, self.kind} == {DATES, NAIVE} and (kind == DATES or getattr(when, "hour", 1) == 0)
        if kind != self.kind and not (zoned and known) and not midnight:
            words = {DATES: "dates", NAIVE: "times without a zone"}
            raise ValueError(
                f"{when} is not of the kind of the bars before it, {words.get(self.kind, f'times of {self.kind}')}"
            )

    def moment(self, us: int) -> date | datetime:
        """Return the time of some microseconds; the same object for the same time as before."""
        if self._last is None or self._last[0] != us:
            if self.kind == DATES:
                when = date.fromordinal(us // _DAY_US + _FIRST)
            elif self.kind == NAIVE:
                when = _EPOCH + timedelta(microseconds=us)
            else:
                when = (_AWARE + timedelta(microseconds=us)).astimezone(ZoneInfo(self.kind or "UTC"))
            self._last = us, when
        return self._last[1]

    def series(self, us: np.ndarray) -> pl.Series:
        """Return times as a column of their dtype.

        Args:
            us: (N,) int64 microseconds.
        """
        times = pl.Series("timestamp", us).cast(pl.Datetime("us"))
        if self.kind not in (None, NAIVE, DATES):
            times = times.dt.replace_time_zone("UTC").dt.convert_time_zone(self.kind)
        return times.cast(self.dtype)
