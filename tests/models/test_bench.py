"""scripts/bench decoders: every row runs, and a page keeps the text outside its markers."""

import argparse
import importlib.util
from pathlib import Path

import pytest

from tests.models import parity

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench", ROOT / "scripts/bench/__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cases_hold_every_decoder_coin_mode_and_dtype(bench):
    seen = list(bench.cases(["cpu"], bench.SIZES))
    assert {case.decoder for case in seen} == set(bench.DECODERS)
    assert set(bench.DECODERS.values()) == set(parity.DECODERS)
    assert {case.coin for case in seen} == set(parity.COINS)
    assert {case.mode for case in seen} == {"train", "infer"}
    assert {case.dtype for case in seen} == set(bench.DTYPES)


def test_every_contestant_of_every_case_runs(bench):
    for case in bench.cases(["cpu"], [bench.Sizes(2, 4, 2, 3, 1), bench.Sizes(2, 4, 2, 3, 2)]):
        steps = bench.contestants(case)
        assert list(steps) == ["loop", "ours", "fused"]
        for step in steps.values():
            step(0)


@pytest.mark.slow
def test_a_table_is_measured_and_written_between_its_markers(bench, monkeypatch, tmp_path):
    sizes = bench.Sizes(2, 4, 2, 3, 1)
    case = bench.Case("cpu", "float32", "train", "autoregressive", "step", 0.5, sizes)
    monkeypatch.setattr(bench, "cases", lambda devices, sizes: [case])
    args = argparse.Namespace(
        device=["cpu"], sizes=[sizes], repeats=1, threads=1, table="decoders", segments_per_step=None
    )
    text = bench.decoders(args)
    assert "| cpu | float32 | 2, 4, 2, 3, 1 | autoregressive | step | 0.5 | train |" in text
    assert text.endswith(f"Not measured: {'; '.join(bench.NOT_MEASURED)}; CUDA.")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- decoders: begin -->\nold\n<!-- decoders: end -->\nafter\n")
    bench.write(page, "decoders", text)
    assert page.read_text() == f"before\n<!-- decoders: begin -->\n{text}\n<!-- decoders: end -->\nafter\n"


def test_the_page_has_the_markers(bench):
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert all(f"<!-- {table}: {end} -->" in page for table in ("decoders", "masks") for end in ("begin", "end"))
    assert f"Not measured: {'; '.join(bench.NOT_MEASURED)}" in page


def test_what_is_called_not_measured_is_not(bench):
    seen = list(bench.cases(["cpu"], bench.SIZES))
    assert {case.coin for case in seen if case.mode == "infer"} == {"free"}
    assert {case.decoder for case in seen if case.dtype == "bf16"} == {"autoregressive"}
    usual = ("float32", "autoregressive")
    assert {case.sizes for case in seen if (case.dtype, case.decoder) != usual} == {bench.SIZES[0]}
    assert {case.ratio for case in seen if case.coin in ("sequence", "prefix")} == {0.5}


def test_figures_of_few_repeats_are_not_written(bench, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["bench.py", "decoders", "--repeats", "4", "--write", str(tmp_path / "page.md")])
    with pytest.raises(SystemExit) as stopped:
        bench.main()
    assert stopped.value.code == 2
    assert "--repeats is 4; it must be at least 5 with --write" in capsys.readouterr().err


def test_the_processor_has_a_name_also_where_there_is_no_proc(bench, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: False)
    monkeypatch.setattr(Path, "read_text", None)
    assert bench._processor()


@pytest.mark.slow
@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize(("coin", "ratio"), [("free", 0.0), ("step", 0.5), ("sequence_step", 0.5)])
@pytest.mark.parametrize("decoder", ["autoregressive", "conditional"])
def test_a_training_step_holds_no_more_memory_than_the_loops(bench, decoder, coin, ratio, L):
    """Check the bytes of tensors that are alive at once; they depend on sizes and coins alone."""
    steps = bench.contestants(bench.Case("cpu", "float32", "train", decoder, coin, ratio, bench.Sizes(8, 16, 5, 16, L)))
    ours, loop = (bench.peak_bytes(steps[name], "cpu") for name in ("ours", "loop"))
    assert 0 < ours <= loop
