"""Bounds declared in annotations are enforced where the object is made."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from refold.bounds import at_least, checked, complaint, more_than, within


class Part:
    @checked("part")
    def __init__(
        self,
        *,
        size: Annotated[int, at_least(1)],
        share: Annotated[float, within(0, 1, open_end=True)] = 0.5,
        kind: Literal["a", "b"] = "a",
        limit: Annotated[float, more_than(0)] | None = None,
    ):
        self.size = size


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 0}, r"part\.size is 0; it must be at least 1"),
        ({"size": 1, "share": 1.0}, r"part\.share is 1\.0; it must be in \[0, 1\)"),
        ({"size": 1, "share": math.nan}, r"part\.share is nan"),
        ({"size": 1, "kind": "c"}, r"part\.kind is 'c'; it must be one of a, b"),
        ({"size": 1, "limit": 0}, r"part\.limit is 0; it must be greater than 0"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_its_bound_and_key(wrong, message):
    with pytest.raises(ValueError, match=message):
        Part(**wrong)


def test_values_within_bounds_pass():
    assert Part(size=1, share=0.0, limit=None).size == 1


def test_dataclasses_are_checked_too():
    @checked("schedule")
    @dataclass(frozen=True)
    class Schedule:
        ratio: Annotated[float, within(0, 1)]

    assert Schedule(ratio=1).ratio == 1
    with pytest.raises(ValueError, match=r"schedule\.ratio is 2; it must be in \[0, 1\]"):
        Schedule(ratio=2)


def test_a_value_of_another_type_is_not_held_to_numeric_bounds():
    assert complaint(Annotated[int, at_least(1)] | Literal["auto"], "auto") is None
