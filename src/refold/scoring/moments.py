"""Times of bars as decisions about events write and compare them."""

import polars as pl


def naive_times(column: str) -> pl.Expr:
    """Return an expression of a column of times as naive datetimes in microseconds, of UTC if they have a zone."""

    def plain(times: pl.Series) -> pl.Series:
        if getattr(times.dtype, "time_zone", None):
            times = times.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return times.cast(pl.Datetime("us"))

    return pl.col(column).map_batches(plain, return_dtype=pl.Datetime("us"))


def moment_texts(times: pl.Series) -> list[str | None]:
    """Write times as a decisions file has them: a day, or date and time, of UTC if they have a zone.

    Args:
        times: dates or datetimes.
    """
    plain = times.to_frame("time").select(naive_times("time")).to_series()
    return plain.dt.strftime("%Y-%m-%d" if times.dtype == pl.Date else "%Y-%m-%dT%H:%M:%S%.6f").to_list()
