"""Find where a stopped run resumes, and change those of its settings that may change."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from refold import program
from refold.errors import ConfigError
from refold.runs.directory import LAST_CHECKPOINT, RESOLVED
from refold.runs.settings import give_anew, override, read_settings, refuse_withheld, to_plain

CHANGEABLE = ("trainer.", "logger.", "checkpoint.every_minutes", "early_stopping.patience")
"""Keys that a resumed run may change. Others are part of what its checkpoint is a state of."""


def resume_command(directory: Path) -> str:
    """Return the command that goes on with a run, quoted for a shell."""
    latest = Path("outputs/latest")
    where = "latest" if latest.resolve() == directory.resolve() else str(directory)
    return f"{program.command_words('train')} {shlex.quote(f'resume={where}')}"


class Resume:
    """A run to go on with: its directory, its checkpoint, and its configuration.

    Args:
        where: `latest`, a run directory or a checkpoint in one.

    Raises:
        ConfigError: there is no such run, or it has not written a checkpoint yet.
    """

    def __init__(self, where: str) -> None:
        path = Path("outputs/latest" if where == "latest" else where)
        self.directory = (path.parent.parent if path.suffix == ".ckpt" else path).resolve()
        self.checkpoint = path.resolve() if path.suffix == ".ckpt" else self.directory / LAST_CHECKPOINT
        for needed in (self.directory / RESOLVED, self.checkpoint):
            if not needed.is_file():
                raise ConfigError(f"resume is {where}; there is no {needed}, so there is nothing to go on with")

    def config(self, overrides: Sequence[str], trust: Sequence[str] = ()) -> DictConfig:
        """Read the run's own configuration and put the values that were given this time on top.

        Args:
            overrides: texts such as "trainer.max_epochs=9"; `resume=...` and `trust=...` are left out.
            trust: packages of one's own whose parts the run may build.

        Returns:
            The configuration to go on with.

        Raises:
            ConfigError: an override changes what the checkpoint depends on, or a key that the run does not have; or a
                value that was kept out of resolved.yaml, such as a password, is not given again.
        """
        cfg = read_settings(self.directory / RESOLVED, trust)
        for setting in overrides:
            key, _, value = setting.lstrip("+~").partition("=")
            if key in ("resume", "trust") or give_anew(cfg, key, value):
                continue
            if not key.startswith(CHANGEABLE) or OmegaConf.select(cfg, key, default=KeyError) is KeyError:
                allowed = ", ".join(f"{name}*" if name.endswith(".") else name for name in CHANGEABLE)
                raise ConfigError(f"{setting}: a resumed run keeps its settings; what can change is {allowed}")
            cfg = override(cfg, setting)
        used = {name: section for name, section in to_plain(cfg).items() if name != "run"}
        refuse_withheld(used, "", resume_command(self.directory))
        return cfg
