"""Decoder study: from the runs of the decoder study to a table, a figure and what won."""

import pytest
from conftest import ROOT

from refold.cli import command
from refold.studies import decoder_study
from tests.report.runs_on_disk import measured, settings_of, write_run

PAGE = f"before\n{decoder_study.BEGIN}\nold\n{decoder_study.END}\nafter\n"


@pytest.fixture
def study(tmp_path):
    """Two decoders, two schedules of one of them, three seeds; r2 = 0.5 + what each is worth + noise of the seed."""
    worth = {"autoregressive": 0.2, "conditional": 0.1, "none": 0.0, "linear": 0.04}
    cells = [("autoregressive", "none"), ("autoregressive", "linear"), ("conditional", "none")]
    for decoder, schedule in cells:
        for seed in range(3):
            cfg = settings_of(f"decoder={decoder}", f"teacher_forcing={schedule}", f"seed={seed}")
            cfg["run"]["choices"] |= {"teacher_forcing": schedule, "layers": "one"}
            r2 = 0.5 + worth[decoder] + worth[schedule] * (1 if seed else -1) + 0.01 * seed
            write_run(tmp_path / f"sweep/{decoder}-{schedule}-{seed}", cfg, metrics=measured(1 - r2, val_r2=r2))
    (tmp_path / "page.md").write_text(PAGE)
    return [str(tmp_path / name) for name in ("sweep", "page.md", "study.png")]


@pytest.mark.slow
def test_table_figure_and_verdicts(study, tmp_path):
    decoder_study.main(study)
    lines = (tmp_path / "page.md").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    table = [line for line in lines if line.startswith("| ")]
    assert table[0] == "| decoder | teacher_forcing | layers | seeds | test/r2 | val/r2 | val/exposure_gap |"
    assert table[1] == "| autoregressive | linear | one | 3 | 0.723 ± 0.055 | 0.723 ± 0.055 |  |"
    assert [line.split(" | ")[0] for line in table[2:]] == ["| autoregressive", "| conditional"]
    verdicts = [line for line in lines if line.startswith("- ")]
    assert verdicts == [
        "- `decoder=autoregressive` is first, `decoder=conditional` second: test/r2 +0.100, standard deviation 0.000 "
        "over 3 pairs of runs that differ in it alone, ahead in 3 of them",
        "- `teacher_forcing=linear` is first, `teacher_forcing=none` second: test/r2 +0.013, standard deviation 0.046 "
        "over 3 pairs of runs that differ in it alone, ahead in 2 of them",
    ]
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    decoder_study.main(study)  # a page that has a table gets the new one
    assert (tmp_path / "page.md").read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda study: study[:2], "usage: "),
        (lambda study: [study[0], study[0] + "/none.md", study[2]], "it must be a page with the two lines"),
        (lambda study: [study[0] + "/autoregressive-none-0", *study[1:]], "fewer than two finished combinations"),
        (lambda study: [str(ROOT / "docs"), *study[1:]], "is not a run and holds none"),
    ],
)
def test_a_mistake_ends_in_one_message(study, change, message, capsys):
    assert command.run_command(lambda: decoder_study.main(change(study)), ROOT / "conf") == 2
    assert message in capsys.readouterr().err
