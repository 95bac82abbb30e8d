"""metrics.csv is one table of all rows of a run, of an interrupted one too. W&B logs offline without a key."""

import csv
import logging
import tracemalloc

import pytest

from refold.config import build as config
from refold.training import loggers
from refold.training.loggers import WandbRun
from refold.training.metrics_file import MetricsFile, last_logged


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_new_columns_join_as_they_appear(tmp_path):
    logger = MetricsFile(tmp_path / "metrics.csv")
    logger.log_metrics({"a": 1.0, "epoch": 0}, step=0)
    logger.log_metrics({"a": 2.0, "epoch": 0}, step=1)
    logger.log_metrics({"b": 3.0, "epoch": 0}, step=1)
    assert rows(tmp_path / "metrics.csv") == [
        {"epoch": "0", "step": "0", "a": "1.0", "b": ""},
        {"epoch": "0", "step": "1", "a": "2.0", "b": ""},
        {"epoch": "0", "step": "1", "a": "", "b": "3.0"},
    ]


def test_a_resumed_run_drops_what_it_repeats_and_keeps_the_rest(tmp_path):
    first = MetricsFile(tmp_path / "metrics.csv")
    for step in range(4):
        first.log_metrics({"a": float(step), "epoch": 0}, step=step)
    resumed = MetricsFile(tmp_path / "metrics.csv")
    resumed.log_metrics({"a": 20.0, "epoch": 0}, step=2)
    assert [(row["step"], row["a"]) for row in rows(tmp_path / "metrics.csv")] == [
        ("0", "0.0"),
        ("1", "1.0"),
        ("2", "20.0"),
    ]


def test_a_run_that_resumes_at_its_end_keeps_the_rows_of_its_last_step(tmp_path):
    first = MetricsFile(tmp_path / "metrics.csv")
    first.log_metrics({"train/loss": 3.0}, step=7)
    first.log_metrics({"val/reconstruction_mse": 0.5}, step=7)
    first.log_end_row({"best/val": 0.5}, step=7)  # and was killed before result.json
    resumed = MetricsFile(tmp_path / "metrics.csv")
    resumed.log_end_row({"best/val": 0.5, "test/r2": 0.4}, step=7)
    values = [{name: value for name, value in row.items() if value} for row in rows(tmp_path / "metrics.csv")]
    assert values == [
        {"step": "7", "train/loss": "3.0"},
        {"step": "7", "val/reconstruction_mse": "0.5"},
        {"step": "7", "best/val": "0.5", "test/r2": "0.4"},
    ]


def test_a_cut_last_row_does_no_harm(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,a\n0,0,1.0\n0,")
    MetricsFile(path).log_metrics({"a": 2.0, "epoch": 0}, step=5)
    assert [row["step"] for row in rows(path)] == ["0", "5"]


def test_memory_does_not_grow_with_the_rows(tmp_path):
    logger = MetricsFile(tmp_path / "metrics.csv")
    tracemalloc.start()
    held = []
    for step in range(2000):
        logger.log_metrics({"train/loss": float(step), "train/lr": 0.1, "epoch": 0}, step=step)
        if step in (200, 1999):
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[1] - held[0] < 10_000  # the rows alone take 600 kB
    assert len(rows(tmp_path / "metrics.csv")) == 2000


def test_a_file_that_somebody_removes_begins_anew(tmp_path):
    logger = MetricsFile(tmp_path / "metrics.csv")
    logger.log_metrics({"a": 1.0}, step=0)
    (tmp_path / "metrics.csv").unlink()
    logger.log_metrics({"b": 2.0}, step=1)
    assert [row["b"] for row in rows(tmp_path / "metrics.csv")] == ["2.0"]


class RecordingRun:
    """Stand for a W&B run; with `fails` every call raises."""

    def __init__(self, fails: Exception | None = None):
        self.id, self.fails, self.rows = "run-0", fails, []

    def log(self, row, step):
        if self.fails:
            raise self.fails
        self.rows.append((step, row))


def test_wandb_counts_in_optimizer_steps_that_never_go_back(tmp_path):
    run = RecordingRun()
    logger = WandbRun(run, tmp_path, logged=(-1, set()), log_model=False)
    logger.log_metrics({"a": 1.0, "epoch": 0}, step=7)
    logger.log_metrics({"b": 1.0}, step=6)
    assert run.rows == [
        (7, {"a": 1.0, "epoch": 0, "trainer/global_step": 7}), (7, {"b": 1.0, "trainer/global_step": 6}),
    ]  # fmt: skip


def test_a_resumed_run_logs_nothing_twice(tmp_path):
    first = MetricsFile(tmp_path / "metrics.csv")
    for step, row in ((2, {"a": 1.0}), (3, {"a": 1.0}), (3, {"b": 2.0})):
        first.log_metrics(row, step=step)
    logged = last_logged(tmp_path / "metrics.csv")
    assert logged == (3, {"step", "a", "b"})
    run = RecordingRun()
    logger = WandbRun(run, tmp_path, logged=logged, log_model=False)
    for step in range(5):
        logger.log_metrics({"a": 1.0, "epoch": 0}, step=step)
        logger.log_metrics({"c": 1.0, "epoch": 0}, step=step)
    assert [(step, sorted(row.keys() & {"a", "c"})) for step, row in run.rows] == [(3, ["c"]), (4, ["a"]), (4, ["c"])]
    assert last_logged(tmp_path / "none.csv") == (-1, set())


def test_a_failing_wandb_is_said_once_and_left_alone(tmp_path, caplog):
    run = RecordingRun(fails=BrokenPipeError("its service is gone\nand more"))
    logger = WandbRun(run, tmp_path, logged=(-1, set()), log_model=True)
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            logger.log_metrics({"a": 1.0}, step=step)
            logger.log_pictures({"picture": tmp_path / "none.png"}, step=step)
            logger.log_best(tmp_path / "best.ckpt", {})
    (record,) = caplog.records
    assert "W&B: not logged there from here on (its service is gone); the run goes on" in record.getMessage()


@pytest.mark.slow
def test_a_run_that_wandb_cannot_close_does_not_take_in_the_next_one(tmp_path, monkeypatch, caplog):
    import wandb

    def start(name: str) -> wandb.Run:
        quiet = wandb.Settings(silent=True)
        return wandb.init(mode="offline", id=name, dir=tmp_path, settings=quiet)

    run = start("first")
    with monkeypatch.context() as patch:
        patch.setattr(type(run), "_finish", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
        loggers.finish_loggers(0)
    assert "its run was not closed ([Errno 28] No space left)" in caplog.text
    assert start("second").id == "second"
    loggers.finish_loggers(0)
    assert wandb.run is None
    loggers.finish_loggers(0)


def test_a_page_shows_settings_without_noise():
    settings = {"a": {"_target_": "x.Y", "b": 1, "c": {"_partial_": True}}, "logger": {"mode": "auto"}, "resume": None}
    assert config.without_noise(settings) == {"a": {"b": 1}}


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["autoregressive", "repeat"])
def test_every_run_logs_what_a_comparison_needs(decoder, tiny_run, tmp_path, caplog):
    caplog.set_level(logging.INFO, "refold.training.callbacks")
    _, result = tiny_run("trainer.max_epochs=3", f"decoder={decoder}")
    table = rows(tmp_path / "run/metrics.csv")
    per_epoch = {
        "val/reconstruction_mse", "val/r2", "train/reconstruction_mse", "train/epoch_loss", "perf/windows_per_s",
        "perf/epoch_s", "perf/peak_memory_mib",
    }  # fmt: skip
    fed = {"val/truth_fed_mse", "val/exposure_gap"}
    for name in per_epoch | (fed if decoder != "repeat" else set()):
        assert len([row for row in table if row[name]]) == 3, name
    per_step = {"train/loss", "train/lr", "train/grad_norm"}
    if decoder == "repeat":
        assert not {*fed, "train/teacher_forcing_ratio"} & set(table[0])
    else:
        per_step.add("train/teacher_forcing_ratio")
    lines = [text for text in caplog.messages if text.startswith("epoch ")]
    assert [text.partition("  ")[0] for text in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    forcing = [text.partition("teacher forcing ")[2].partition("  ")[0] for text in lines]
    assert forcing == (["", "", ""] if decoder == "repeat" else ["1.00 to 0.00", "0.00", "0.00"])
    steps = result["optimizer_steps"]
    for name in per_step:
        assert [int(row["step"]) for row in table if row[name]] == list(range(steps)), name
    assert all(float(row["train/grad_norm"]) > 0 for row in table if row["train/grad_norm"])
    last = table[-1]
    assert int(last["step"]) == steps - 1
    for name in ("test/r2", "val/r2_against_pca", "test/r2_against_mean"):
        assert float(last[name]) == pytest.approx(result["metrics"][name])
    assert float(last["pca/test/r2"]) == pytest.approx(result["baselines"]["pca"]["test/r2"])
    best = min(float(row["val/reconstruction_mse"]) for row in table if row["val/reconstruction_mse"])
    assert float(last["best/val/reconstruction_mse"]) == pytest.approx(best)
    error, pca = result["metrics"]["test/reconstruction_mse"], result["baselines"]["pca"]["test/reconstruction_mse"]
    assert result["metrics"]["test/r2_against_pca"] == pytest.approx(1 - error / pca)
    drawn = {path.name for path in (tmp_path / "run/figures").iterdir()}
    assert {"val_reconstructions_0001.png", "val_reconstructions_0002.png", "error_histogram.png"} <= drawn
    assert "val_reconstructions_0003.png" not in drawn
    assert result["parts"]["test"]["first"] > result["parts"]["val"]["last"] > result["parts"]["val"]["first"]
    assert result["parts"]["train"]["windows"] == 490


@pytest.mark.slow
def test_the_gradient_norm_is_the_same_with_and_without_clipping(tiny_run, tmp_path):
    for name, clip in (("clipped", "0.05"), ("free", "null")):
        tiny_run("trainer.max_steps=1", f"trainer.gradient_clip_val={clip}", directory=name)
    clipped, free = (rows(tmp_path / name / "metrics.csv")[0]["train/grad_norm"] for name in ("clipped", "free"))
    assert float(clipped) == pytest.approx(float(free))
    assert float(free) > 0.05


@pytest.mark.slow
def test_tensorboard_carries_numbers_pictures_and_settings(tiny_run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, result = tiny_run("logger=tensorboard")
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    names = set(events.Tags()["scalars"])
    assert {"train/grad_norm", "val/exposure_gap", "test/r2", "pca/test/r2", "perf/peak_memory_mib"} <= names
    assert events.Scalars("test/r2")[-1].value == pytest.approx(result["metrics"]["test/r2"])
    assert {"val/reconstructions", "figures/latent_map", "figures/error_histogram"} <= set(events.Tags()["images"])
    assert "hidden_size: 8" in (tmp_path / "run/tensorboard/hparams.yaml").read_text()


@pytest.mark.parametrize(("value", "connection"), [("", "online"), ("offline", "offline")])
def test_an_empty_wandb_mode_is_none(value, connection, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", value)
    monkeypatch.setattr(loggers, "_start_run", lambda connection, page: connection)
    monkeypatch.setattr(loggers, "WandbRun", type("Started", (), {"__new__": lambda cls, run, *_, **__: run}))
    started = loggers.wandb_logger(
        project="refold",
        entity=None,
        mode="auto",
        tags=[],
        notes=None,
        log_model=False,
        run_dir=tmp_path,
        run_id="a",
        settings={"run": {}},
        group=None,
    )
    assert started == connection
