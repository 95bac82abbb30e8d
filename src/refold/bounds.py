"""Bounds of settings, declared once in a constructor's annotations.

    @checked("decoder")
    def __init__(self, *, dropout: Annotated[float, within(0, 1, open_end=True)])

`checked` refuses a value at construction with "decoder.dropout is 1.5; it must be in [0, 1)". The same annotations let
`refold.config.validate` refuse it before any data is read. Standard library only.
"""

import functools
import inspect
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Bounds:
    """An interval of allowed numbers.

    Attributes:
        start: lower end.
        end: upper end; infinity is no limit.
        open_start: True excludes `start` itself.
        open_end: True excludes `end` itself.
    """

    start: float
    end: float
    open_start: bool
    open_end: bool

    def __contains__(self, value: float) -> bool:
        above = value > self.start if self.open_start else value >= self.start
        below = value < self.end if self.open_end else value <= self.end
        return above and below  # NaN compares false with everything, and so is in no interval

    def __str__(self) -> str:
        if math.isinf(self.end):
            return f"{'greater than' if self.open_start else 'at least'} {self.start}"
        return f"in {'(' if self.open_start else '['}{self.start}, {self.end}{')' if self.open_end else ']'}"


def at_least(start: float) -> Bounds:
    """Return the interval [start, infinity)."""
    return Bounds(start, math.inf, open_start=False, open_end=True)


def more_than(start: float) -> Bounds:
    """Return the interval (start, infinity)."""
    return Bounds(start, math.inf, open_start=True, open_end=True)


def within(start: float, end: float, *, open_start: bool = False, open_end: bool = False) -> Bounds:
    """Return the interval from start to end.

    Args:
        start: lower end.
        end: upper end.
        open_start: True excludes `start` itself.
        open_end: True excludes `end` itself.
    """
    return Bounds(start, end, open_start, open_end)


def complaint(annotation: Any, value: Any) -> str | None:
    """Check a value against the bounds and choices of an annotation.

    The type of the value is checked only where the annotation has bounds: the value must then be a number, and True
    and False are not numbers.

    Args:
        annotation: such as `Annotated[float, within(0, 1)]`, `Literal["a", "b"]`, or a union with one of these.
        value: any value.

    Returns:
        What is wrong, such as "it must be in [0, 1)"; None if the value is allowed.
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base, *metadata = parts
        limits = [limit for limit in metadata if isinstance(limit, Bounds)]
        members = get_args(base) if get_origin(base) in (Union, UnionType) else ()
        if not _is_number(value) and any(_may_be(member, value) for member in members):
            return complaint(base, value)
        wrong = next((limit for limit in limits if not _is_number(value) or value not in limit), None)
        if wrong is not None:
            return f"it must be {'' if _is_number(value) else 'a number '}{wrong}"
        return complaint(base, value)
    if origin is Literal and value not in parts:
        return f"it must be {'one of ' if len(parts) > 1 else ''}{', '.join(str(choice) for choice in parts)}"
    if origin in (Union, UnionType):
        complaints = [_no_whole_number(member, value) or complaint(member, value) for member in parts]
        wrong = [text for text in complaints if text is not None]
        accepted = any(text is None and _may_be(member, value) for member, text in zip(parts, complaints, strict=True))
        choices = " or ".join(text.removeprefix("it must be ") for text in wrong)
        return f"it must be {choices}" if wrong and not accepted else None
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _no_whole_number(member: Any, value: Any) -> str | None:
    """Say that a number with a fraction is not among the whole numbers that a union's member allows."""
    if get_origin(member) is not Annotated or get_args(member)[0] is not int or not _is_number(value) or value % 1 == 0:
        return None
    limits = [str(limit) for limit in member.__metadata__ if isinstance(limit, Bounds)]
    return f"it must be a whole number {' and '.join(limits)}".strip()


def _may_be(member: Any, value: Any) -> bool:
    """Check whether a value has the type of a union's member; bounds and choices count as passed."""
    if get_origin(member) in (Annotated, Literal):
        return True
    kind = get_origin(member) or member
    return not isinstance(kind, type) or isinstance(value, kind)


def checked(key: str) -> Callable[[Callable], Callable]:
    """Return a decorator that checks the arguments of a constructor or a dataclass against their declared bounds.

    A value out of bounds raises a ValueError that names the value, the bound and the key.

    Args:
        key: config path of the object, such as "decoder"; the message speaks of `decoder.dropout`.
    """

    def decorate(init: Callable) -> Callable:
        if inspect.isclass(init):
            init.__init__ = decorate(init.__init__)
            return init
        signature = inspect.signature(init)

        @functools.wraps(init)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            hints = get_type_hints(init, include_extras=True)
            for name, value in signature.bind(*args, **kwargs).arguments.items():
                wrong = complaint(hints.get(name), value)
                if wrong:
                    raise ValueError(f"{key}.{name} is {value!r}; {wrong}")
            return init(*args, **kwargs)

        return wrapper

    return decorate
