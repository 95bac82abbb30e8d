"""Find how this process was started, so that a reader can type the commands in messages as they stand."""

import re
import sys
from pathlib import Path

_SCRIPT = re.compile(r"python (?:scripts/)?(train|check|score|encode|export|compare)\.py")


def command_words(name: str) -> str:
    """Return the words that start a subcommand the way that this process was started.

    Args:
        name: name of the subcommand, such as "train".

    Returns:
        `python train.py` or `python scripts/score.py` where a script of the checkout was started, else `refold train`.
    """
    if not (sys.argv and Path(sys.argv[0]).suffix == ".py" and Path(sys.argv[0]).name != "__main__.py"):
        return f"refold {name}"
    return "python train.py" if name == "train" else f"python scripts/{name}.py"


def as_started(text: str) -> str:
    """Return a text in which every command of Refold is written the way that this process was started.

    Args:
        text: a text with commands such as `python train.py` and `python scripts/score.py`.
    """
    return _SCRIPT.sub(lambda found: command_words(found[1]), text)
