"""Counters of a server of live bars, for Prometheus."""

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from refold.live.broadcast import Broadcast
from refold.live.feed import Feed
from refold.live.recent import Recent
from refold.live.verdict import Verdict
from refold.scoring.drift import STATES

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds."""


class Measures(Collector):
    """Count bars, flags and refusals, and describe drift and age when Prometheus asks.

    Args:
        feed: what judges.
        recent: newest bars of each asset.
        broadcast: to the readers.
    """

    def __init__(self, feed: Feed, recent: Recent, broadcast: Broadcast) -> None:
        self.feed, self.recent, self.broadcast = feed, recent, broadcast
        self.registry = CollectorRegistry()
        self.bars = Counter("refold_bars", "Bars that were judged", registry=self.registry)
        self.flags = Counter("refold_flags", "Bars that were flagged", registry=self.registry)
        self.refused = Counter("refold_refused", "Bars that were refused", ["reason"], registry=self.registry)
        told = "From the arrival of a request with bars to its verdicts"
        self.latency = Histogram("refold_latency_seconds", told, buckets=BUCKETS, registry=self.registry)
        self.registry.register(self)

    def add(self, verdicts: Sequence[Verdict], seconds: float) -> None:
        """Count the verdicts of a request.

        Args:
            verdicts: on its bars.
            seconds: that it took.
        """
        self.bars.inc(len(verdicts))
        self.flags.inc(sum(verdict.flagged for verdict in verdicts))
        for verdict in verdicts:
            if not verdict.accepted:
                self.refused.labels(str(verdict.reason)).inc()
        self.latency.observe(seconds)

    def collect(self) -> Iterable[Metric]:
        """Yield drift and age of each asset, and the readers."""
        drift = GaugeMetricFamily("refold_drift", "0 stable, 1 watch, 2 retrain", labels=["asset"])
        age = GaugeMetricFamily("refold_newest_bar_age_seconds", "Since the newest bar's timestamp", labels=["asset"])
        now = time.time()
        for row in self.recent.assets():
            if row["drift"] is not None:
                drift.add_metric([row["asset"]], STATES.index(row["drift"]))
            when = datetime.fromisoformat(row["timestamp"])
            age.add_metric([row["asset"]], now - (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
        pooled = GaugeMetricFamily("refold_drift_of_all", "Of all assets together: 0 stable, 1 watch, 2 retrain")
        if self.feed.live.drift is not None and (state := self.feed.live.drift.pooled):
            pooled.add_metric([], STATES.index(state))
        readers = GaugeMetricFamily("refold_readers", "Readers of /verdicts", value=len(self.broadcast.readers))
        lost = GaugeMetricFamily("refold_lost_verdicts", "Verdicts that slow readers lost", value=self.broadcast.lost)
        yield from (drift, age, pooled, readers, lost)

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self.registry)
