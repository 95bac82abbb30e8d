"""Look at a table before any training: columns, assets, times, findings, and the settings with which it would train.

    python scripts/check.py prices.csv                                         a file of any kind
    python scripts/check.py prices.csv data.source.table.columns.close=last    read with settings of train.py
    python scripts/check.py data=sql data.uri=sqlite:///bars.db                another source
    python scripts/check.py prices.csv --json                                  the same for programs

Every check is heard, whatever its policy. Exit status: 0 nothing found, 1 something found, 2 the table cannot be read.
"""

import json
import logging
import shlex
import sys
from pathlib import Path
from typing import get_type_hints

from rich.console import Console

from refold import program
from refold.cli import command
from refold.config import build
from refold.config.arguments import hide_arguments
from refold.config.compose import compose_settings, file_overrides, without_hydra
from refold.config.validate import check_sections, check_values
from refold.data.inspection import Inspection, inspect_table
from refold.data.recipe import Recipe, Stride
from refold.errors import ConfigError, RefoldError

SECTIONS = ("data.source", "data.checks", "data.split")
VALUES = ("layout", "min_assets", "window_size", "max_masked", "stride", "fold", "overnight", "scale", "scale_lookback")
HINTS = {**get_type_hints(Recipe, include_extras=True), "stride": Stride}
BOUNDS = {f"data.{name}": HINTS[name] for name in VALUES}
"""Key -> type and bounds, of the settings of windows that are values."""

ASSETS = 8
"""Assets that are listed one by one."""


def main() -> None:
    """Inspect the table, and print what was found.

    Raises:
        RefoldError: a setting is wrong, or the table cannot be read.
        SystemExit: something was found; the status is 1.
    """
    arguments = sys.argv[1:]
    as_json = "--json" in arguments
    try:
        overrides, inspection = inspect([argument for argument in arguments if argument != "--json"])
    except RefoldError as error:
        if as_json:
            print(json.dumps({"status": "unreadable", "message": str(error)}, indent=2))
        raise
    settings = [*overrides, *inspection.overrides]
    if as_json:
        print(json.dumps({**inspection.to_dict(), "overrides": settings}, indent=2))
    else:
        print_inspection(inspection, settings)
    if not inspection.clean:
        sys.exit(1)


def inspect(arguments: list[str]) -> tuple[list[str], Inspection]:
    """Inspect the table that a command line names.

    Args:
        arguments: a file, overrides as of `refold train`, or both.

    Returns:
        The overrides that choose the table and how it is read, and what was found.

    Raises:
        RefoldError: a setting is wrong, or the table cannot be read.
    """
    files = [text for text in arguments if not text.startswith("-") and ("=" not in text or Path(text).exists())]
    given = command.read_arguments([text for text in arguments if text not in files], __doc__)
    if len(files) > 1:
        raise ConfigError(f"{files[1]}: one table is checked at a time; {files[0]} is given already")
    if not files and not given:
        raise ConfigError("there is nothing to check; name a file: python scripts/check.py prices.csv")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    chosen = file_overrides(files[0]) if files else []
    if "data" in given:  # another reading of the same file
        chosen = [text for text in chosen if not text.startswith("data=")]
    overrides = hide_arguments([*chosen, *(f"{key}={value}" for key, value in given.items())])
    cfg = without_hydra(compose_settings(overrides))
    check_sections(cfg, SECTIONS)
    check_values(cfg, BOUNDS)
    return overrides, inspect_table(build.build_source(cfg), build.build_recipe(cfg), stride=cfg.data.stride)


def print_inspection(found: Inspection, settings: list[str]) -> None:
    """Print the facts about a table.

    Args:
        found: the facts.
        settings: the settings with which it would train.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    form = "".join(f", {name} {value}" for name, value in found.form.items())
    console.print(f"{found.source}: {found.rows:,} rows, {len(found.columns)} columns{form}")
    width = max((len(name) for name, _ in found.columns), default=0)
    for name, part in found.columns[:40]:
        console.print(f"  {name:<{width}}  {part}")
    if len(found.columns) > 40:
        console.print(f"  and {len(found.columns) - 40} more columns")
    console.print(f"bars       {found.bars:,} of {len(found.assets)} assets")
    for asset in found.assets[:ASSETS]:
        console.print(
            f"  {asset['asset']}: {asset['bars']:,} bars, {asset['first']} to {asset['last']}, {asset['interval']}"
        )
    if len(found.assets) > ASSETS:
        console.print(f"  and {len(found.assets) - ASSETS} more assets")
    console.print(f"span       {found.first} to {found.last}")
    console.print(f"time zone  {found.time_zone}")
    for number, line in enumerate(found.sessions[:ASSETS]):
        console.print(f"{'' if number else 'bars come':<11}{line}")
    console.print(f"findings   {'' if found.findings else 'none'}")
    for finding in found.findings:
        console.print(
            f"  {finding.check}: {finding.bars:,} bars of {finding.assets} assets; {finding.complaint}. "
            f"data.checks.policies.{finding.check} is {finding.policy}"
        )
        for example in finding.examples:
            console.print(f"    {example}")
    console.print(f"features   {', '.join(found.features)}")
    console.print(f"scale      {found.scale}")
    console.print(f"windows    {', '.join(f'{part} {count:,}' for part, count in found.windows.items())}")
    for obstacle in found.obstacles:
        console.print(f"it would not train: {obstacle}")
    if not found.obstacles:
        console.print(f"it would train with\n  {program.command_words('train')} {shlex.join(settings)}")
