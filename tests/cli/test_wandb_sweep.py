"""conf/sweep/wandb.yaml: the command lines that W&B's agent makes of it compose and pass the check."""

import itertools

import pytest
import yaml
from conftest import CONF, ROOT, compose_run

from refold.config.validate import check

SWEEP = yaml.safe_load((CONF / "sweep/wandb.yaml").read_text())


def agent_command(values: dict) -> list[str]:
    """What the agent runs, by W&B's own functions."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    macros = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    macros |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [SWEEP["program"]]}
    command = create_sweep_command(list(SWEEP["command"]))
    parts = [macros[part[2:-1]] if part.startswith("${") else [part] for part in command]
    return list(itertools.chain.from_iterable(parts))


def corners() -> list[dict]:
    """Each value of each parameter once, beside the first of the others; of a range both ends."""
    choices = {name: given.get("values") or [given["min"], given["max"]] for name, given in SWEEP["parameters"].items()}
    first = {name: values[0] for name, values in choices.items()}
    return [{**first, name: value} for name, values in choices.items() for value in values]


@pytest.mark.slow
def test_what_the_agent_starts_is_a_run():
    commands = [agent_command(values) for values in corners()]
    assert len(commands) >= 10
    for command in commands:
        assert command[:3] == ["/usr/bin/env", "python", "train.py"]
        cfg = compose_run(command[3:])
        assert all("has no effect" in warning for warning in check(cfg))
    assert (ROOT / SWEEP["program"]).is_file()


def test_its_metric_is_one_that_every_run_logs(run_dir):
    header = (run_dir / "metrics.csv").read_text().splitlines()[0].split(",")
    assert SWEEP["metric"] == {"name": "best/val/reconstruction_mse", "goal": "minimize"}
    assert SWEEP["metric"]["name"] in header
