"""Bars as lines: JSON and CSV, in chunks that end anywhere, from pipes and files that grow, are cut or replaced."""

import json
import os

import pytest

from refold.errors import ConfigError
from refold.live.lines import LONGEST_LINE, LineReader, chunks_of_file, chunks_of_pipe

BARS = [{"date": "2024-01-02", "symbol": "Ä", "close": 1.5}, {"date": "2024-01-03", "symbol": "Ä", "close": 2}]
JSON = "\n".join(json.dumps(bar, ensure_ascii=False) for bar in BARS).encode()
CSV = '\ufeffdate,symbol,close\r\n2024-01-02,"A,B",1.5\r\n\r\n2024-01-03,C,2\r\n'.encode()


def read(data: bytes, size: int = 10**9) -> list:
    reader = LineReader()
    found = [bar for start in range(0, len(data), size) for bar in reader.feed(data[start : start + size])]
    return found + reader.finish()


@pytest.mark.parametrize("size", [1, 3, 10, 10**9])
def test_chunks_may_end_anywhere(size):
    assert read(JSON, size) == read(JSON + b"\n", size) == BARS
    assert read(CSV, size) == [
        {"date": "2024-01-02", "symbol": "A,B", "close": "1.5"},
        {"date": "2024-01-03", "symbol": "C", "close": "2"},
    ]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"{}\n{", "line 2 is no JSON: Expecting property name"),
        (b"{}\n3", "line 2 is no JSON object"),
        (b"{}\n" + b"[" * 100_000, "line 2 is no JSON: "),
        (b"{}\n\xff", "line 2 is no JSON: "),
        (b"a,b\n1", "line 2 has 1 cells; the header has 2"),
        (b"a,b\n1,2,3", "line 2 has 3 cells; the header has 2"),
        (b"a,b\n" + b"x" * (LONGEST_LINE + 9), "line 2 is longer than 1,048,576 bytes"),
        (b"a,b\n" + b"x" * (LONGEST_LINE + 9) + b"\n1,2", "line 2 is longer than 1,048,576 bytes"),
    ],
)
@pytest.mark.parametrize("size", [70_000, 10**9])
def test_a_line_that_is_no_bar_is_a_sentence(data, told, size):
    found = [bar for bar in read(data, size) if bar != {}]
    assert told in found[0]
    assert found[1:] == ([{"a": "1", "b": "2"}] if data.endswith(b"1,2") else [])


def test_a_header_that_comes_again_is_no_bar():
    assert read(b"a,b\n1,2\na,b\n3,4\n") == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_a_pipe_is_read_as_it_comes_and_ends():
    out, into = os.pipe()
    chunks = chunks_of_pipe(out, 0.01)
    assert next(chunks) == b""
    os.write(into, b"abc")
    assert next(chunks) == b"abc"
    os.close(into)
    assert list(chunks) == []
    os.close(out)


def test_a_file_grows_is_cut_and_is_replaced(tmp_path):
    path = tmp_path / "bars.csv"
    path.write_bytes(b"one")
    chunks = chunks_of_file(path, 0.0)
    assert [next(chunks), next(chunks)] == [b"one", b""]
    with path.open("ab") as file:
        file.write(b"two")
    assert next(chunks) == b"two"
    path.write_bytes(b"3")
    assert [next(chunks), next(chunks)] == [b"", b"3"]
    path.unlink()
    assert [next(chunks), next(chunks)] == [b"", b""]
    path.write_bytes(b"another")
    assert next(part for part in chunks if part) == b"another"
    chunks.close()
    with pytest.raises(ConfigError, match=r"follow is .*; it cannot be read: No such file"):
        next(chunks_of_file(tmp_path / "gone", 0.0))
