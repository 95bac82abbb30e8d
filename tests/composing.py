"""Hydra composes faster in tests: what it makes of conf/ for some options is kept for the next test with the same ones.

A composition reads and merges some forty files, 0.2 CPU seconds, and many tests differ in values alone. Those are still
set, and refused, by Hydra. Folders other than conf/ are read anew each time.
"""

import copy
import functools
from dataclasses import replace
from pathlib import Path

from hydra._internal import config_loader_impl, config_repository

CONF = Path(__file__).resolve().parents[1] / "conf"


COMPOSING = (
    (config_loader_impl, "create_defaults_list"),
    (config_loader_impl.ConfigLoaderImpl, "_compose_config_from_defaults_list"),
    (config_repository.ConfigRepository, "load_config"),
)
"""Where Hydra finds the files of a composition, merges them and reads one; replacements have them as __wrapped__."""


def keep_compositions() -> None:
    """Let Hydra compose options of conf/ once in this process."""
    find_files, merge, read = (getattr(owner, name) for owner, name in COMPOSING)
    found, merged, files = {}, {}, {}

    def is_kept(repo) -> bool:
        return [source.path for source in repo.get_sources()] == ["hydra.conf", str(CONF), ""]

    @functools.wraps(find_files)
    def find_once(repo, config_name, overrides_list, prepend_hydra, skip_missing):
        if not is_kept(repo) or any(one.is_sweep_override() or isinstance(one.value(), dict) for one in overrides_list):
            return find_files(repo, config_name, overrides_list, prepend_hydra, skip_missing)
        options = [one for one in overrides_list if repo.group_exists(one.key_or_group)]
        values = [one for one in overrides_list if one not in options]
        key = (config_name, tuple(one.input_line for one in options), prepend_hydra, skip_missing)
        if key not in found:
            found[key] = find_files(repo, config_name, options, prepend_hydra, skip_missing)
        return replace(found[key], config_overrides=values)

    @functools.wraps(merge)
    def merge_once(self, defaults, repo):
        if not is_kept(repo):
            return merge(self, defaults, repo)
        key = repr(defaults)
        if key not in merged:
            merged[key] = merge(self, defaults, repo)
        return copy.deepcopy(merged[key])

    @functools.wraps(read)
    def read_once(self, config_path):
        if not is_kept(self):
            return read(self, config_path)
        if config_path not in files:
            files[config_path] = read(self, config_path)
        return copy.deepcopy(files[config_path])

    for (owner, name), kept in zip(COMPOSING, (find_once, merge_once, read_once), strict=True):
        setattr(owner, name, kept)
