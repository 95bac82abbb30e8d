"""Shards of a table add up to the whole, with and without Ray; a worker that dies or refuses costs its shard alone."""

import importlib.util
import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from refold.data.bars.table import LABEL
from refold.data.long.ordered import OrderedBars, read_sorted
from refold.data.long.spool import PartedTable, TableSpool
from refold.errors import ConfigError, DataError
from refold.library import on_ray
from refold.library.decisions import FALSE_ALARM, Decision, Decisions
from refold.library.on_ray import ATTEMPTS, EncodeAssets, OnRay, ScoreAssets, ray_started, read_choice, share_out
from refold.library.scoring_result import REFUSED, Scoring, gather_scoring
from refold.library.tally import HERE, Tally
from refold.report.evidence import Sample
from refold.scoring.alarms import AlarmRates
from refold.scoring.detector import Detector
from refold.scoring.drift import DriftLimits, DriftTest
from refold.scoring.thresholds import Quantile, StreamingPeaks
from tests.data.makers import checks, random_bars, with_value
from tests.launch.sockets import listening
from tests.scoring.test_scan import fitted

PIECE = 200
"""Rows of a shard: A alone, in two pieces; B and C together; D alone."""

HIDDEN = ("place", "kind", "guess")


@pytest.fixture(scope="module")
def judge() -> Detector:
    rules = checks(missing_value="mask", duplicate="warn", stale_run="warn", missing_timestamp="drop")
    return fitted(random_bars([900, 900]), checks=rules, threshold=Quantile(share=0.9, per_asset=False))


@pytest.fixture
def bars(tmp_path: Path, judge: Detector) -> OrderedBars:
    table = with_value(random_bars([260, 90, 80, 190], seed=5), [40, 300, 301, 500], "close", None)
    table = table.with_columns((pl.int_range(pl.len()) % 50 == 7).cast(pl.Int8).alias(LABEL))
    lost = table[[9]].with_columns(timestamp=pl.lit(None, pl.Date))
    (tmp_path / "bars").mkdir()
    return read_sorted([table, lost], judge.recipe.checks, tmp_path / "bars")


def a_tally(judge: Detector, bars: OrderedBars) -> Tally:
    day = bars.slice(0, 250)["timestamp"]
    dismissed = Decision("unusual", "A", *(pl.Series([day[0], day[200]]).cast(pl.Datetime).to_list()), "regime",
                         FALSE_ALARM, {})  # fmt: skip
    thresholds = {
        "one": Quantile(share=0.8, per_asset=False),
        "two": StreamingPeaks(risk=0.05, start=0.7, per_asset=False),
    }
    assert judge.reference is not None
    return Tally(
        bars.rows,
        compared=AlarmRates(thresholds, judge.validation, bars.rows),
        drift=DriftTest(judge.reference, DriftLimits(watch_years=0.1, retrain_years=1.0)),
        sample=Sample(judge),
        decisions=Decisions([dismissed]),
        findings=[bars.findings],
        faulty=deepcopy(bars.faulty),
    )


def in_shards(work, bars: OrderedBars, folder: Path) -> tuple[list, PartedTable]:
    """What workers do, without Ray."""
    parts, found = PartedTable(folder / "table", len(bars.assets)), []
    for first, end in reversed(bars.shards(PIECE)):
        spool = TableSpool(folder / "part.parquet")
        found.append(pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(work))(bars.of_assets(first, end), spool))))
        spool.table()
        (folder / "part.parquet").rename(parts.path(first))
        parts.rows += spool.rows
    return found[::-1], parts


def assert_same(one: Scoring, other: Scoring) -> None:
    """Two scorings say the same, digit by digit."""
    assert one.scores.collect().equals(other.scores.collect())
    assert one.facts == other.facts
    assert one.thresholds == other.thresholds
    for name in ("events", "findings", "drift"):
        assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=True)
    assert one.evidence is not None
    assert other.evidence is not None
    assert one.evidence.latents.equals(other.evidence.latents)
    assert one.evidence.feature_errors == other.evidence.feature_errors


def test_the_counts_of_shards_add_up_to_those_of_one_process(judge, bars, tmp_path):
    assert bars.shards(PIECE) == [(0, 1), (1, 3), (3, 4)]
    tally, spool = a_tally(judge, bars), TableSpool(None)
    for table in tally.scan(judge, bars, PIECE):
        spool.add(table.drop(HIDDEN))
    alone = gather_scoring(judge, tally, spool, HERE, bars)
    shared = a_tally(judge, bars)
    found, parts = in_shards(ScoreAssets(judge, shared.of_assets(bars.assets), PIECE, HIDDEN), bars, tmp_path)
    for one in found:
        shared.merge(one)
    together = gather_scoring(judge, shared, parts, HERE, bars)
    assert_same(alone, together)
    facts = alone.facts
    assert min(facts["alarms"], facts["dismissed_bars"], facts["found_by_checks"]["missing_value"]) > 0
    assert min(row[HERE] for row in alone.thresholds.values()) > 0
    assert alone.facts["detection"][HERE]["anomalous_bars"] > 5
    assert alone.drift["once_in_years"].n_unique() > 1
    assert parts.rows == bars.rows + 1
    assert pl.read_parquet(tmp_path / "table").equals(alone.scores.collect())


def test_an_asset_without_scores_keeps_its_rows_and_says_why(judge, bars, tmp_path):
    tally = a_tally(judge, bars)
    parts = PartedTable(tmp_path / "table", len(bars.assets))
    for table in tally.scan(judge, bars.of_assets(0, 1), PIECE):
        parts.add(table.drop(HIDDEN))
    scoring = gather_scoring(judge, tally, parts, HERE, bars, {"B": "it has no luck"})
    assert scoring.facts["refused_assets"] == {"B": "it has no luck"}
    assert scoring.facts["without_score"][REFUSED] == 90
    rows = scoring.scores.filter(asset="B").collect()
    assert rows.select("score", "verdict", "reason").unique().rows() == [(None, False, REFUSED)]
    assert rows["close"].equals(bars.slice(260, 350)["close"])
    assert scoring.scores.collect()["reason"][-1] == "missing_timestamp"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on": "dask"}, "on is 'dask'; it must be local or ray"),
        ({"workers": "2"}, "workers is 2; it goes with on=ray: one process does all otherwise"),
        ({"on": "ray", "workers": "0"}, "workers is '0'; it must be a whole number of at least 1"),
        ({"on": "ray", "workers": "two"}, "workers is 'two'; it must be a whole number of at least 1"),
        ({"on": "ray", "device": "cuda"}, "device is 'cuda'; the workers of on=ray use CPUs: device=cpu, or on=local"),
    ],
)
def test_a_wrong_choice_is_refused_in_a_sentence(settings, message):
    with pytest.raises(ConfigError, match=f"^{message}$".replace("(", r"\(")):
        read_choice(settings)


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    assert read_choice({}) is None
    assert read_choice({"on": "ray", "workers": "3"}) == OnRay(3)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"on is ray, which is not installed: pip install 'refold\[ray\]'"):
        read_choice({"on": "ray"})


@pytest.mark.parametrize(
    ("address", "workers", "message"),
    [
        ("local", 10**6, r"workers is 1000000; it must be at most \d+ on \d+ cores"),
        ("nonsense", None, "RAY_ADDRESS is nonsense; Ray does not start there: "),
    ],
)
def test_ray_without_resources_is_refused_in_a_sentence(address, workers, message, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=message), ray_started(OnRay(workers)):
        raise AssertionError("Ray has started")


def processes_under(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have, as Linux tells it."""
    own: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has just ended
            own += map(int, file.read_text().split())
    return own + [below for child in own for below in processes_under(child)]


class Unlucky(NamedTuple):
    """Encode assets; a process that gets B dies once, one that gets D dies always, and C is refused."""

    work: EncodeAssets
    folder: Path

    def __call__(self, bars: OrderedBars, spool: TableSpool) -> str:
        name = "".join(bars.assets)
        tries = len(list(self.folder.glob(f"{name}-*")))
        (self.folder / f"{name}-{tries}").touch()
        if (name == "B" and not tries) or "D" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        if "C" in name:
            raise DataError("C has no luck")
        self.work(bars, spool)
        return name


@pytest.mark.slow
def test_a_worker_that_dies_is_done_again_and_the_rest_is_done_without_assets_that_cannot_be(judge, bars, tmp_path):
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not find the module of a test
    tried, told = tmp_path / "tried", []
    tried.mkdir()
    (tmp_path / "scratch").mkdir()
    parts = PartedTable(tmp_path / "table", len(bars.assets))
    before = dict(os.environ)
    with ray_started(OnRay(2)) as workers:
        addresses: list[str] = []
        for pid in processes_under(os.getpid()):
            with suppress(OSError):  # it has just ended
                addresses += listening(pid)
        done = share_out(
            Unlucky(EncodeAssets(judge, PIECE), tried), bars, parts, tmp_path / "scratch", piece=PIECE,
            workers=workers, progress=told.append,
        )  # fmt: skip
    assert workers == 2
    assert len(addresses) > 5
    assert {address[-8:] for address in addresses} == {"0100007F"}  # 127.0.0.1, also as an address of IPv6
    assert dict(os.environ) == before
    assert done.found == ["A", "B"]
    assert list(done.refused) == ["C", "D"]
    assert done.refused["C"] == "C has no luck"
    assert done.refused["D"].startswith(f"its worker ended {ATTEMPTS} times: ")
    counts = {name: len(list(tried.glob(f"{name}-*"))) for name in ("A", "BC", "B", "C", "D")}
    assert counts == {"A": 1, "BC": 1, "B": 2, "C": 1, "D": ATTEMPTS}
    assert sum(told) == bars.rows
    alone = TableSpool(None)
    EncodeAssets(judge, PIECE)(bars.of_assets(0, 1), alone)
    EncodeAssets(judge, PIECE)(bars.of_assets(1, 2), alone)
    assert pl.read_parquet(tmp_path / "table").equals(alone.table().collect())
    assert parts.rows == alone.rows


class Holder:
    """Holds a CPU of Ray."""

    def there(self) -> bool:
        return True


ON_CLUSTER = """
from refold.errors import ConfigError
from refold.library.on_ray import OnRay, ray_started
with ray_started(OnRay(None)) as workers:
    print(workers)
try:
    with ray_started(OnRay(3)):
        print("started")
except ConfigError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_cluster_is_reached_by_its_address_and_refused_without_free_cpus(judge, bars, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(on_ray, "START_S", 2)
    (tmp_path / "scratch").mkdir()
    with ray_started(OnRay(2)):
        address = ray.get_runtime_context().gcs_address
        done = subprocess.run(
            [sys.executable, "-c", ON_CLUSTER], env={**os.environ, "RAY_ADDRESS": address}, capture_output=True,
            text=True, timeout=120, check=True,
        )  # fmt: skip
        refusal = f"workers is 3; each takes a CPU, of which the Ray cluster at {address} has 2"
        assert done.stdout.splitlines() == ["2", refusal]
        holders = [ray.remote(num_cpus=1)(Holder).remote() for _ in range(2)]
        assert ray.get([one.there.remote() for one in holders]) == [True, True]
        parts = PartedTable(tmp_path / "table", len(bars.assets))
        with pytest.raises(
            ConfigError, match="no worker of Ray started within 2 s; 0 of its CPUs are free, each takes"
        ):
            share_out(
                EncodeAssets(judge, PIECE), bars, parts, tmp_path / "scratch", piece=PIECE, workers=2, progress=print
            )
