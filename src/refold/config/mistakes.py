"""Word the mistakes of a configuration: wrong values, and the valid name that is most like a wrong one.

pydantic is imported where it is needed: completion and `--help` do without it.
"""

import difflib
import re
from collections.abc import Iterator
from typing import Any

from refold.bounds import complaint

_PLAIN_WORDS = {"Field required": "an entry is missing"}


def nearest(name: str, names: list[str] | set[str]) -> str:
    """Return "; did you mean X?" with the valid name most like a wrong one, or an empty text.

    Args:
        name: the wrong name.
        names: the valid ones.
    """
    found = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def value_mistakes(path: str, hint: Any, value: Any) -> Iterator[str]:
    """Yield what is wrong with a value: its type by pydantic, its bounds by what the annotation declares.

    Args:
        path: dotted name of the key.
        hint: annotation, such as `Annotated[int, at_least(1)]`.
        value: of the key.
    """
    wrong = _type_complaint(hint, value) or complaint(hint, value)
    if wrong:
        choices = wrong.partition("one of ")[2].split(", ") if "one of " in wrong else []
        yield f"{path} is {value!r}; {wrong}{nearest(value, choices) if isinstance(value, str) else ''}"


def _type_complaint(hint: Any, value: Any) -> str | None:
    from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

    if getattr(hint, "_is_protocol", False):
        return "it must be an object: a mapping with a _target_"
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, PydanticUserError):  # a forward reference, say: nothing to hold it to
        return None
    try:
        adapter.validate_python(_as_tuples(value) if "tuple" in str(hint) else value)
    except ValidationError as error:
        uninformative = ("is_instance_of", "callable_type")  # a union with a class that no YAML can hold
        choices = [part.get("ctx", {})["expected"] for part in error.errors() if part["type"] == "literal_error"]
        others = [part["msg"] for part in error.errors() if part["type"] not in ("literal_error", *uninformative)]
        others = others or ([] if choices else [part["msg"] for part in error.errors()])
        reasons = [
            _PLAIN_WORDS.get(text, text.replace("Input should be", "it must be")) for text in dict.fromkeys(others)
        ]
        if choices:
            allowed = dict.fromkeys(re.findall(r"[^\s,']+", " ".join(choices).replace(" or ", " ")))
            reasons.append(f"it must be one of {', '.join(allowed)}")
        return " or ".join(reasons[:1] + [reason.removeprefix("it must be ") for reason in reasons[1:]])
    return None


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(part) for part in value) if isinstance(value, list) else value
