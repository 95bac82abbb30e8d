"""The run directory: ids, `latest`, refusals, and where a run goes on."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import refold
from refold.config.arguments import resume_arguments
from refold.errors import ConfigError
from refold.runs.directory import (
    LAST_CHECKPOINT,
    RESOLVED,
    begin_writing,
    discard_unused,
    identify,
    refuse_existing_run,
    write_result,
)
from refold.runs.resume import Resume, resume_command
from refold.runs.settings import open_run, read_settings
from refold.runs.state import find_state, lock_run, record_refusal


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("2026-01-02_03-04-05_autoregressive-two-s0-7f3a91", r"autoregressive-two-s0-7f3a91"),
        ("sweep_2026-01-02_03-04-05_00ff00/3_repeat-one-s11", r"repeat-one-s11-00ff00-3"),
        ("my run, it's = here", r"my-run-it-s-here-[0-9a-f]{6}"),
        ("###", r"run-[0-9a-f]{6}"),
    ],
)
def test_ids_are_readable_and_fit_for_a_file_name(name, expected):
    import re

    assert re.fullmatch(expected, identify(Path(name)))


def make_run(directory: Path) -> Path:
    cfg = {
        "run": {"version": refold.__version__},
        "resume": None,
        "seed": 0,
        "optimizer": {"lr": 0.1},
        "trainer": {"max_epochs": 3},
        "logger": {"tags": []},
    }
    open_run(OmegaConf.create(cfg), directory)
    (directory / LAST_CHECKPOINT).write_bytes(b"")
    return directory


def test_latest_points_to_the_newest_run_and_survives_a_folder_of_that_name(tmp_path):
    first, second = make_run(tmp_path / "outputs/a"), make_run(tmp_path / "outputs/sweep/b")
    begin_writing(first)
    assert (tmp_path / "outputs/latest").resolve() == first
    begin_writing(second)
    assert (tmp_path / "outputs/latest").resolve() == second
    (tmp_path / "outputs/latest").unlink()
    (tmp_path / "outputs/latest").mkdir()
    begin_writing(first)
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["a", "latest", "sweep"]


def test_a_run_is_not_overwritten(tmp_path):
    directory = make_run(tmp_path / "a")
    cfg = read_settings(directory / RESOLVED)
    with pytest.raises(ConfigError, match="a run is there already: resume="):
        refuse_existing_run(cfg, directory)
    cfg.resume = "latest"
    refuse_existing_run(cfg, directory)


def test_a_refused_job_leaves_no_directory_but_never_takes_another_file_along(tmp_path):
    job = tmp_path / "job"
    (job / ".hydra").mkdir(parents=True)
    (job / "checkpoints").mkdir()
    discard_unused(job)
    assert not job.exists()
    job.mkdir()
    (job / "notes.txt").write_text("mine")
    discard_unused(job)
    assert (job / "notes.txt").exists()


def test_a_job_that_is_refused_where_another_one_starts_leaves_that_alone(tmp_path):
    job = tmp_path / "job"
    with lock_run(job):
        (job / RESOLVED).write_text("of the other one")
        discard_unused(job)
        assert (job / RESOLVED).exists()
        record_refusal(job, ConfigError("in use"))
    assert find_state(job).ended is None


def test_latest_is_found_where_outputs_is_a_link_to_another_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = make_run(tmp_path / "disk/a")
    (tmp_path / "outputs").symlink_to("disk")
    begin_writing(directory)  # a worker sees it without the link
    assert Resume("latest").directory == directory


def test_resume_without_a_value_starts_no_fresh_run():
    for text in ("resume=", "resume=''"):
        with pytest.raises(ConfigError, match="resume is empty; it must be latest, a run directory or a checkpoint"):
            resume_arguments([text])


@pytest.mark.parametrize("where", ["outputs/a", "outputs/a/checkpoints/last.ckpt", "latest"])
def test_a_run_is_found_by_directory_checkpoint_or_latest(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = make_run(tmp_path / "outputs/a")
    begin_writing(directory)
    found = Resume(where)
    assert found.directory == directory
    assert found.checkpoint == directory / "checkpoints/last.ckpt"
    assert resume_arguments(["x=1", f"resume={where}"]) == [
        "x=1", f"resume='{where}'", f"hydra.run.dir='{directory}'", "hydra.output_subdir=null"
    ]  # fmt: skip


def test_arguments_without_resume_stay_as_they_are():
    assert resume_arguments(["seed=1", "resume=null"]) == ["seed=1", "resume=null"]


def test_a_run_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"resume is .*nowhere; there is no .*resolved\.yaml"):
        Resume(str(tmp_path / "nowhere"))


def test_a_run_in_an_oddly_named_directory_is_found_again(tmp_path):
    directory = make_run(tmp_path / 'a b, it\'s = "q"')
    arguments = resume_arguments([f"resume={directory}"])
    for name, argument in zip(("resume", "hydra.run.dir"), arguments, strict=False):
        (override,) = OverridesParser.create().parse_overrides([argument])
        assert (override.key_or_group, override.value()) == (name, str(directory))
    assert resume_arguments(arguments[:1])[0] == arguments[0]
    assert shlex.split(resume_command(directory))[-1] == f"resume={directory}"


def test_a_resumed_run_keeps_what_its_checkpoint_depends_on(tmp_path):
    resume = Resume(str(make_run(tmp_path / "a")))
    assert resume.config(["resume=x", "trainer.max_epochs=9"]).trainer.max_epochs == 9
    for override in ("optimizer.lr=0.2", "seed=1", "optimizer=sgd", "trainer.nothing=1", "~trainer"):
        with pytest.raises(ConfigError, match=r"a resumed run keeps its settings; what can change is trainer\.\*"):
            resume.config([override])


def test_a_sweep_cannot_be_resumed_as_one_run(tmp_path):
    with pytest.raises(ConfigError, match="leave out -m"):
        resume_arguments(["-m", f"resume={make_run(tmp_path / 'a')}"])


@pytest.mark.parametrize("text", ["a: [1", "just words", "\x00"])
def test_broken_settings_are_named(text, tmp_path):
    directory = make_run(tmp_path / "a")
    (directory / RESOLVED).write_text(text)
    with pytest.raises(ConfigError, match=r"resolved\.yaml (cannot be read|is not the configuration of a run)"):
        Resume(str(directory)).config([])


def test_files_are_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "result.json"
    write_result(tmp_path, {"a": 1})
    with pytest.raises(TypeError):
        write_result(tmp_path, {"a": object()})
    assert target.read_text() == '{\n  "a": 1\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
