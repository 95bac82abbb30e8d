"""No file of a run, no line on the terminal, and nothing that compares or scores the run holds a password."""

import math
import os
import shutil
import sqlite3
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import pytest
import yaml
from conftest import TINY

from refold.runs.directory import RESOLVED
from tests.test_secrets import PASSWORD, SPELLINGS

BANK = """
import os
from refold.data.sources import Stocks

class Bank(Stocks):
    '''The embedded stocks, behind many passwords.'''
    def __init__(self, *, table, token, **addresses):
        super().__init__(table=table)
        self.addresses = [*addresses.values(), token]
        if "odd" in addresses:
            raise ValueError(f"bank: no answer from {self.addresses}")
        assert not any("***" in text or "${" in text for text in self.addresses), self.addresses
        with open(os.environ["OPENED"], "a") as file:
            file.write(str(os.getpid()) + "\\n")
"""
PARTS = (PASSWORD, PASSWORD[:4], PASSWORD[4:], "y0urs")


def settings() -> list[str]:
    """Give the source all spellings at once, on the command line."""
    addresses = [f"+data.source.address{number}={quoted(text)}" for number, text in enumerate(SPELLINGS)]
    wandb = ["logger=wandb", "logger.mode=offline"]
    tiny = [setting for setting in TINY if not setting.startswith("logger")]
    own = ["data.source._target_=bank.Bank", "+data.source.token=${oc.env:BANK_TOKEN}"]
    return [*tiny, *wandb, *own, *addresses, "hydra.run.dir=run"]


def quoted(text: str) -> str:
    """Quote a text as a user must for Hydra."""
    return "'" + text.replace("'", "\\'") + "'" if set(text) & set("'\"{}[]&#= ") else text


def leaks(where: Path) -> list[str]:
    """Find the password in files, those of W&B and Hydra among them, and in their names."""
    files = [path for path in where.rglob("*") if path.is_file() and "modules" not in path.parts]
    assert files
    return [
        f"{path}: {part}" for path in files for part in PARTS
        if part.encode() in path.read_bytes() or part in str(path)
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_that_a_run_writes_or_prints_holds_a_password(processes, command, module, tmp_path):
    environment = {
        "PYTHONPATH": module("bank", BANK), "BANK_TOKEN": "y0urs-truly", "OPENED": str(tmp_path / "opened")
    }  # fmt: skip
    done = command(*settings(), f"trainer.devices={processes}", **environment)
    assert done.returncode == 0, done.stderr
    assert len(set((tmp_path / "opened").read_text().split())) >= processes  # each process had the passwords
    shutil.rmtree(tmp_path / "home")
    run = tmp_path / "run"
    printed = done.stdout + done.stderr
    source = yaml.safe_load((run / RESOLVED).read_text())["data"]["source"]
    assert source["token"] == "${oc.env:BANK_TOKEN}"
    assert source["address0"] == "${oc.env:REFOLD_DATA_SOURCE_ADDRESS0}"
    for arguments in (
        ["compare", "run", "--csv", "table.csv", "--html", "page.html"],
        ["score", "run=run", "trust=bank"],
        ["score", "run=run", "trust=bank", f"data.path={tmp_path / 'nowhere.csv'}"],
        ["score", "run=run", "trust=bank", f"data.source.address0={SPELLINGS[0]}"],
    ):
        answer = command(*arguments[1:], script=f"scripts/{arguments[0]}.py", **environment)
        assert answer.returncode == (2 if arguments[0] == "score" else 0), answer.stderr
        assert "Give the value again" in answer.stderr or arguments[0] == "compare" or "nowhere" in answer.stderr
        printed += answer.stdout + answer.stderr
    answer = command("resume=run", "trust=bank", "trainer.max_epochs=2", **environment)
    assert answer.returncode == 2
    assert "data.source.token is ${oc.env:BANK_TOKEN}" in answer.stderr or "data.source.address" in answer.stderr
    again = [argument.lstrip("+") for argument in settings() if "address" in argument or "token" in argument]
    answer = command("resume=run", "trust=bank", "trainer.max_epochs=2", *again, **environment)
    assert answer.returncode == 0, answer.stderr
    printed += answer.stdout + answer.stderr
    assert leaks(tmp_path) == []
    assert [part for part in PARTS if part in printed] == []


@pytest.mark.slow
def test_a_database_that_answers_leaves_no_password_behind(command, tmp_path):
    pytest.importorskip("connectorx", reason="the connector of data=sql is not installed")
    path = tmp_path / "data" / f"bars.db?password={PASSWORD}"  # SQLite has no passwords, and takes this for a name
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table bars (date text, symbol text, close real)")
        days = [date(2015, 1, 1) + timedelta(day) for day in range(900)]
        rows = [(str(day), "A", 100 + math.sin(number) + number / 50) for number, day in enumerate(days)]
        connection.executemany("insert into bars values (?, ?, ?)", rows)
        connection.commit()
    wandb = ["logger=wandb", "logger.mode=offline", "data=sql", "data.window_size=16"]
    tiny = [*(setting for setting in TINY if not setting.startswith("logger")), *wandb]
    query = f"select * from bars where 'token={PASSWORD}' = 'token={PASSWORD}'"
    given = [f"data.uri={quoted(f'sqlite://{path}')}", f"data.source.query={quoted(query)}"]
    named = ["data.uri=${oc.env:DATABASE_URL}"]
    environment = {"DATABASE_URL": f"sqlite://{path}"}
    printed = ""
    for arguments, script in (
        ([*tiny, *given, "hydra.run.dir=given"], "train.py"),
        ([*tiny, *named, "hydra.run.dir=named"], "train.py"),
        (["run=given", *given], "scripts/score.py"),
        (["run=named", *named], "scripts/score.py"),
        (["given", "named", "--csv", "table.csv", "--html", "page.html"], "scripts/compare.py"),
    ):
        done = command(*arguments, script=script, **environment)
        assert done.returncode == 0, (arguments, done.stderr)
        printed += done.stdout + done.stderr
    assert list((tmp_path / "given").rglob("report.html"))
    shutil.rmtree(tmp_path / "home")
    shutil.rmtree(path.parent)
    assert leaks(tmp_path) == []
    assert [part for part in PARTS if part in printed] == []


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "mssql"])
def test_a_database_that_refuses_is_not_told_with_its_password(scheme, monkeypatch):
    import polars as pl

    from refold.data.sources import Sql
    from refold.errors import DataError
    from tests.data.makers import table

    uri = f"{scheme}://bob:{PASSWORD}@127.0.0.1:1/bars"

    def refuse(query: str, uri: str, engine: str) -> None:  # the drivers try for half a minute
        raise RuntimeError(f"error connecting to {uri}: password {PASSWORD} of bob was refused")

    monkeypatch.setattr(pl, "read_database_uri", refuse)
    with pytest.raises(DataError, match="the query failed") as refusal:
        Sql(uri=uri, query="select 1", table=table()).load()
    assert PASSWORD not in str(refusal.value)


@pytest.mark.slow
def test_no_error_message_and_no_log_of_a_sweep_holds_a_password(command, module, tmp_path):
    environment = {
        "PYTHONPATH": module("bank", BANK), "BANK_TOKEN": "y0urs-truly", "OPENED": str(tmp_path / "opened")
    }  # fmt: skip
    others = [setting for setting in settings() if not setting.startswith("hydra")]
    done = command("-m", *others, "+data.source.odd=1", "seed=0,1", **environment)
    assert done.returncode != 0
    assert "no answer from" in done.stderr
    printed = done.stdout + done.stderr
    done = command(*others, "+data.source.odd=1", "optimizer.lr=[postgresql://host]", **environment)
    printed += done.stdout + done.stderr
    for argument in (
        f"data.uri=[{SPELLINGS[0]}]", f"data.uri={SPELLINGS[0]},{SPELLINGS[0]}", f"data.urii={SPELLINGS[0]}",
        SPELLINGS[0], f"optimizer.lr={SPELLINGS[0]}", f"resume={SPELLINGS[0]}", f"data.uri=a({SPELLINGS[0]}",
        f"{SPELLINGS[0]}=3",
    ):  # fmt: skip
        done = command(argument, **environment)
        assert done.returncode == 2, (argument, done.stderr)
        printed += done.stdout + done.stderr
    shutil.rmtree(tmp_path / "home")
    assert leaks(tmp_path) == []
    assert [part for part in PARTS if part in printed] == []


def test_the_password_of_an_earlier_run_is_not_shown(tmp_path, script):
    directory = tmp_path / "run"
    from tests.report.runs_on_disk import measured, settings_of, write_run

    for number, text in enumerate(SPELLINGS):
        write_run(directory / str(number), settings_of(), metrics=measured(0.5, test_r2=0.1))
        path = directory / str(number) / RESOLVED
        settings = yaml.safe_load(path.read_text())
        settings["data"]["uri"] = text
        settings["run"]["overrides"] = [f"data.uri={text}"]
        path.write_text(yaml.safe_dump(settings))
    page, table = tmp_path / "page.html", tmp_path / "table.csv"
    status, printed, errors = script("compare", str(directory), "--csv", str(table), "--html", str(page), "--each")
    assert status == 0, errors
    shown = printed + errors + page.read_text() + table.read_text()
    assert [part for part in PARTS if part in shown] == []
    assert "data.uri" in shown
    assert os.environ.get("REFOLD_DATA_URI") is None
