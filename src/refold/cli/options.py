"""The help of `refold train`, read from the folders of conf/ without Hydra, which needs a second for it."""

from pathlib import Path

from refold import program

HEADER = """\
Refold trains LSTM autoencoders of financial time series.

  python train.py                                       train on the embedded stocks
  python train.py decoder=conditional layers=two        another decoder, two layers
  python train.py data=csv data.path=prices.csv         your own file
  python train.py trainer.devices=4                     four GPUs, or four CPU processes
  python train.py -m decoder=autoregressive,repeat      a sweep
  python train.py resume=latest                         go on with the newest run
  python train.py --cfg job                             print every key and its value

Groups, each with its options (group=option):
"""

FOOTER = "\nEvery key of the chosen options can be set: optimizer.lr=3e-4, trainer.max_epochs=50."

_NO_GROUPS = ("base", "sweep", "hydra")
"""Folders that hold no options: what options share, sweeps for W&B, and settings of Hydra itself."""


def describe_options(arguments: list[str], conf: Path) -> str:
    """Return the help of `refold train`: its commands, and each group with its options.

    Args:
        arguments: the words of the command line; `--config-dir FOLDER` adds the options of that folder.
        conf: folder of the configuration.
    """
    groups: dict[str, set[str]] = {}
    for folder in (conf, *_own_folders(arguments)):
        for path in folder.rglob("*.yaml"):
            group = path.parent.relative_to(folder)
            if group.parts and not set(group.parts) & set(_NO_GROUPS):
                groups.setdefault(group.as_posix(), set()).add(path.stem)
    lines = [f"{group}: {', '.join(sorted(groups[group]))}" for group in sorted(groups)]
    return program.as_started("\n".join([HEADER, *lines, FOOTER]))


def _own_folders(arguments: list[str]) -> list[Path]:
    """Return the folder that `--config-dir FOLDER`, `--config-dir=FOLDER` or `-cd FOLDER` names, if any does."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            return [Path(value or following)]
    return []
