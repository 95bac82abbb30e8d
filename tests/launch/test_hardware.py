"""What the trainer's settings mean on machines with and without GPUs; no GPU is needed to say so."""

import pytest

from refold.errors import ConfigError
from refold.launch.hardware import Machine, plan

LAPTOP = Machine(gpus=0, cores=2, gpu_bf16=False, cpu_bf16=False)
SERVER = Machine(gpus=4, cores=16, gpu_bf16=True, cpu_bf16=False)
NEW_CPU = Machine(gpus=0, cores=2, gpu_bf16=False, cpu_bf16=True)
OLD_GPU = Machine(gpus=1, cores=8, gpu_bf16=False, cpu_bf16=False)


def settings(**changes):
    return {"accelerator": "auto", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "auto", **changes}


@pytest.mark.parametrize(
    ("machine", "changes", "accelerator", "devices", "strategy", "precision", "processes"),
    [
        (LAPTOP, {}, "cpu", 1, "auto", "32-true", 1),
        (LAPTOP, {"devices": 4}, "cpu", 4, "ddp", "32-true", 4),
        (LAPTOP, {"devices": "auto"}, "cpu", 1, "auto", "32-true", 1),
        (NEW_CPU, {}, "cpu", 1, "auto", "bf16-mixed", 1),
        (NEW_CPU, {"precision": "32-true"}, "cpu", 1, "auto", "32-true", 1),
        (SERVER, {}, "gpu", 1, "auto", "bf16-mixed", 1),
        (SERVER, {"devices": 4}, "gpu", 4, "ddp", "bf16-mixed", 4),
        (SERVER, {"devices": "auto"}, "gpu", 4, "ddp", "bf16-mixed", 4),
        (SERVER, {"devices": [1, 3]}, "gpu", [1, 3], "ddp", "bf16-mixed", 2),
        (SERVER, {"accelerator": "cpu", "devices": 2}, "cpu", 2, "ddp", "32-true", 2),
        (OLD_GPU, {}, "gpu", 1, "auto", "16-mixed", 1),
        (SERVER, {"precision": "32-true"}, "gpu", 1, "auto", "32-true", 1),
    ],
)
def test_auto_is_made_definite(machine, changes, accelerator, devices, strategy, precision, processes):
    result = plan(settings(**changes), machine)
    expected = {"accelerator": accelerator, "devices": devices, "strategy": strategy, "precision": precision}
    assert {key: result.settings[key] for key in expected} == expected
    assert result.processes == processes


@pytest.mark.parametrize(
    ("machine", "changes", "message"),
    [
        (OLD_GPU, {"devices": 4}, r"trainer\.devices is 4; this machine has 1 GPU: run with trainer\.devices=1, or"),
        (
            SERVER,
            {"devices": 8},
            r"this machine has 4 GPUs: run with trainer\.devices=4, or with trainer\.accelerator=cpu",
        ),
        (SERVER, {"devices": [0, 7]}, r"trainer\.devices is \[0, 7\]; this machine has 4 GPUs, numbered from 0"),
        (LAPTOP, {"accelerator": "gpu"}, r"this machine has no GPU: run with trainer=cpu"),
        (SERVER, {"devices": []}, r"trainer\.devices is \[\]; this machine has 4 GPUs"),
        (LAPTOP, {"devices": [0, 1]}, r"a list names GPUs, on a CPU it must be a number"),
        (LAPTOP, {"devices": 100_000}, r"this machine has 2 cores, and more than 16 .* it must be at most 32"),
        (LAPTOP, {"precision": "16-mixed"}, r"a CPU has no float16: run with trainer\.precision=bf16-mixed"),
    ],
)
def test_what_is_not_there_is_refused_with_what_would_run(machine, changes, message):
    with pytest.raises(ConfigError, match=message):
        plan(settings(**changes), machine)


def test_cpu_processes_are_announced_with_the_cores_there_are():
    found = plan(settings(devices=4), LAPTOP)
    note, _ = found.notes
    assert found.warnings == ("4 processes share 2 cores: they are no faster than fewer",)
    assert plan(settings(devices=2), LAPTOP).warnings == ()
    assert note.startswith("No GPU is found here: training in 4 CPU processes on 2 cores")
    assert plan(settings(precision="32-true"), LAPTOP).notes == ()


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (LAPTOP, "trainer.precision is auto: 32-true, since this CPU has no bfloat16"),
        (NEW_CPU, "trainer.precision is auto: bf16-mixed, since this CPU computes in bfloat16"),
        (SERVER, "trainer.precision is auto: bf16-mixed, since this GPU computes in bfloat16"),
        (OLD_GPU, "trainer.precision is auto: 16-mixed, since this GPU has no bfloat16"),
    ],
)
def test_the_choice_of_a_precision_is_said_with_its_reason(machine, says):
    assert says in plan(settings(), machine).notes
    assert plan(settings(precision="32-true"), machine).notes == ()


def test_a_precision_that_is_only_emulated_is_allowed_with_a_warning():
    asked = settings(precision="bf16-mixed")
    assert "32-true is faster" in plan(asked, LAPTOP).warnings[0]
    assert "16-mixed or 32-true is faster" in plan(asked, OLD_GPU).warnings[0]
    assert plan(asked, NEW_CPU).warnings == plan(asked, SERVER).warnings == ()
