"""Bounds declared in annotations are enforced where the object is made."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

import numpy as np
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


@pytest.mark.parametrize("value", ["8", None, True, [1], 1j])
def test_a_bounded_value_that_is_no_number_is_refused(value):
    assert complaint(Annotated[int, at_least(1)], value) == "it must be a number at least 1"
    with pytest.raises(ValueError, match=rf"part\.size is {re.escape(repr(value))}; it must be a number at least 1"):
        Part(size=value)


@pytest.mark.parametrize("number", [np.float32, np.float64, np.int64, Fraction, int, float])
def test_numbers_of_any_kind_are_held_to_the_bounds(number):
    assert complaint(Annotated[float, within(0, 1)], number(1)) is None
    assert complaint(Annotated[float, within(0, 1)], number(2)) == "it must be in [0, 1]"


COUNT = Annotated[int, at_least(1)]
SHARE_OR_COUNT = Annotated[float, within(0, 1, open_start=True)] | COUNT


@pytest.mark.parametrize(
    ("annotation", "value", "wrong"),
    [
        (COUNT | None, None, None),
        (COUNT | None, 3, None),
        (COUNT | None, 0, "it must be at least 1"),
        (COUNT | None, "3", "it must be a number at least 1"),
        (Annotated[int | None, at_least(1)], None, None),
        (Annotated[int | None, at_least(1)], 0, "it must be at least 1"),
        (Annotated[int | None, at_least(1)], "3", "it must be a number at least 1"),
        (COUNT | Literal["auto"], "auto", None),
        (COUNT | Literal["auto"], 3, None),
        (COUNT | Literal["auto"], "all", "it must be a number at least 1 or auto"),
        (COUNT | Literal["auto"], 0, "it must be at least 1 or auto"),
        (COUNT | Literal["auto"] | None, None, None),
        (Literal[0] | Annotated[int, at_least(2)], 0, None),
        (Literal[0] | Annotated[int, at_least(2)], 1, "it must be 0 or at least 2"),
        (Literal[0] | Annotated[int, at_least(2)], 2, None),
        (SHARE_OR_COUNT, 0.5, None),
        (SHARE_OR_COUNT, 3, None),
        (SHARE_OR_COUNT, 1.5, "it must be in (0, 1] or a whole number at least 1"),
        (SHARE_OR_COUNT, 0, "it must be in (0, 1] or at least 1"),
        (Literal["a", "b"] | None, "c", "it must be one of a, b"),
        (COUNT | str, "anything", None),
        (COUNT | list[int], [0], None),
        (int | None, "anything", None),  # nothing is bounded: types are not our business
    ],
)
def test_a_union_takes_what_one_of_its_members_takes(annotation, value, wrong):
    assert complaint(annotation, value) == wrong
