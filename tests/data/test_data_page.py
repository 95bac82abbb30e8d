"""docs/data.md names what there is: every option, check, policy and feature."""

import re
from pathlib import Path

import yaml

from refold.data.bars.features import PLAIN, TRAILING, find
from refold.data.bars.findings import CHECKS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/data.md").read_text()


def first_column(heading: str) -> dict[str, list[str]]:
    """Rows of the table whose header begins with a word: first cell -> the others."""
    table = TEXT[TEXT.index(f"| {heading} |") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return {row[0].strip("` |"): row[1:] for row in rows}


def test_options_are_those_on_disk():
    assert set(first_column("option")) == {path.stem for path in (ROOT / "conf/data").glob("*.yaml")}
    splits = set(re.findall(r"^\| `data/split=(\w+)`", TEXT, flags=re.MULTILINE))
    assert splits == {path.stem for path in (ROOT / "conf/data/split").glob("*.yaml")}


def test_checks_and_their_defaults_are_those_of_the_configuration():
    policies = yaml.safe_load((ROOT / "conf/data/base/windows.yaml").read_text())["checks"]["policies"]
    assert {name: cells[-1].strip("| ") for name, cells in first_column("check").items()} == policies
    assert list(policies) == list(CHECKS)


def test_features_and_their_look_backs_are_those_of_the_catalogue():
    documented = {name: cells[1] for name, cells in first_column("name").items()}
    assert set(documented) == set(PLAIN) | {f"{family}_N" for family in TRAILING}
    for name, lookback in documented.items():
        if name.endswith("_N"):
            extra = int(lookback.partition("+")[2] or 0)
            assert find(name.replace("_N", "_20")).lookback == 20 + extra
        else:
            assert find(name).lookback == int(lookback)
