"""Read text and YAML of a run directory, which may come from anywhere, within bounds of size and depth."""

from pathlib import Path

import yaml

LARGEST_BYTES = 1_000_000
DEEPEST = 30
LONGEST_VALUE = 20_000
MOST_VALUES = 50_000
"""Bounds of a resolved.yaml that is read; a usual one has 8,000 bytes, 5 levels and 400 values."""

PLAIN_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads 500 runs in 2 s, Python alone in 20


def read_text(path: Path, largest_bytes: int) -> str:
    """Read a text file of bounded size.

    Args:
        path: file to read.
        largest_bytes: size up to which it is read.

    Returns:
        The text.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no file, is larger, or is not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    with path.open("rb") as file:
        content = file.read(largest_bytes + 1)
    if len(content) > largest_bytes:
        raise ValueError(f"it is larger than {largest_bytes:,} bytes")
    return content.decode()


def read_yaml_text(path: Path) -> str:
    """Read the text of a YAML file, and refuse one that would take much time or memory when it is loaded.

    Args:
        path: file to read.

    Returns:
        The text, not loaded yet.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no file, is not UTF-8, or is larger or deeper than any that Refold writes.
        yaml.YAMLError: it is not YAML.
    """
    text = read_text(path, LARGEST_BYTES)
    depth = 0
    for count, event in enumerate(yaml.parse(text, PLAIN_LOADER)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        wrong = None
        if isinstance(event, yaml.AliasEvent):
            wrong = "it has an alias"
        elif depth > DEEPEST:
            wrong = f"it is nested more than {DEEPEST} levels deep"
        elif count > MOST_VALUES:
            wrong = f"it has more than {MOST_VALUES:,} values"
        elif isinstance(event, yaml.ScalarEvent) and len(event.value) > LONGEST_VALUE:
            wrong = f"a value has more than {LONGEST_VALUE:,} characters"
        if wrong:
            raise ValueError(f"{wrong}; Refold writes at most {DEEPEST} levels, without aliases")
    return text
