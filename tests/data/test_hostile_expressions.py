"""An expression of data.features, which a stranger's run directory may hold, reads no file and fills no memory."""

import pytest

from refold.data.bars.expressions import parse
from refold.errors import DataError

READS = {
    "the first line of a file": "close IN (SELECT column_1 FROM read_csv('{file}'))",
    "a scalar of a file": "close + (select * from read_csv('{file}'))",
    "whether a file has rows": "EXISTS (select 1 from read_parquet('{file}')) AND close > 0",
    "from before select": "close IN (FROM read_csv('{file}'))",
    "a table": "close IN (TABLE bars)",
    "hidden by a comment": "close IN (/**/FROM/**/bars)",
    "a quoted name": """close IN (FROM "read_csv"('{file}'))""",
}


@pytest.mark.parametrize("text", READS.values(), ids=READS)
def test_an_expression_reads_no_file(text, tmp_path):
    (tmp_path / "private.csv").write_text("the-private-line,1\n2,3\n")
    with pytest.raises(DataError, match=r"without subqueries, files and comments") as refusal:
        parse("x", text.format(file=tmp_path / "private.csv"))
    assert "the-private-line" not in str(refusal.value)


TOO_MUCH = {
    "a padded text": ("LENGTH(LPAD('x', 1000000000)) + close", "has 'LPAD\\(', which makes texts"),
    "replaced texts": ("LENGTH(REPLACE('xxx', 'x', 'xxxxxxxxx')) + close", "has 'REPLACE\\(', which makes texts"),
    "a long sum": ("+".join(["close"] * 4_000), "has 23,999 characters; it must have at most 2,000"),
    "a deep sum": ("close" + "+1" * 990, "is nested too deeply"),
}


@pytest.mark.parametrize(("text", "message"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_an_expression_exhausts_neither_memory_nor_stack(text, message):
    with pytest.raises(DataError, match=message):
        parse("x", text)


@pytest.mark.parametrize("text", ["EXTRACT(year FROM timestamp) + close", "selected - read", '"from" + "table"'])
def test_ordinary_expressions_and_names_stay(text):
    assert parse("x", text).meta.root_names()
