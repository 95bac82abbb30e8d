"""Each word of docs/glossary.md is a word of the code."""

import re

import pytest
from conftest import ROOT

WORDS = re.findall(r"^\| `([\w ]+)` \|", (ROOT / "docs/glossary.md").read_text(), flags=re.MULTILINE)
CODE = "\n".join(path.read_text() for path in sorted((ROOT / "src/refold").rglob("*.py"))).lower()


def test_the_table_is_read_and_sorted():
    assert len(WORDS) > 30
    assert sorted(set(WORDS)) == WORDS


@pytest.mark.parametrize("word", WORDS)
def test_every_word_occurs_in_the_code(word):
    assert re.search(rf"(?<![a-z]){re.escape(word).replace(chr(92) + ' ', '[ _-]')}s?(?![a-z])", CODE)
