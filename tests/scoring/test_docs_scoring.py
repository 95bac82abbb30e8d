"""docs/scoring.md names every option on disk, and draws what the module that aligns draws."""

import re

from conftest import CONF, ROOT

import refold.scoring.alignment as alignment

PAGE = (ROOT / "docs/scoring.md").read_text()


def test_every_score_and_threshold_has_a_row():
    choices = PAGE[PAGE.index("## From windows to bars") : PAGE.index("## How rare a score is")]
    rows = set(re.findall(r"^\| `(\w+)`", choices, flags=re.MULTILINE))
    on_disk = {path.stem for group in ("score", "threshold") for path in (CONF / group).glob("*.yaml")}
    heads = {"alignment", "score", "threshold"}
    assert rows - heads - set(alignment.ALIGNMENTS) == on_disk
    assert on_disk | set(alignment.ALIGNMENTS) <= rows


def test_the_drawing_is_that_of_the_module():
    def windows(text: str) -> list[str]:
        return re.findall(r"window \d .*\]", text)

    assert windows(PAGE) == windows(alignment.__doc__)
    assert len(windows(PAGE)) == 4
