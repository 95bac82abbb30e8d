"""docs/extending.md: what it shows runs, as one job with all four of the reader's own parts."""

import json
import re

import pytest
import torch
import yaml
from conftest import CONF, ROOT, TINY, run_directories

TEXT = (ROOT / "docs/extending.md").read_text()


@pytest.mark.slow
def test_the_readers_own_parts_train(command, module, tmp_path):
    path = module("mine", "\n\n".join(re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)))
    options = re.findall(r"```yaml\n# (my_conf/\S+)\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(options) == 6
    for name, content in options:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    arguments = re.search(r"^    python train\.py (.*)$", TEXT, flags=re.MULTILINE).group(1).split()
    done = command(*arguments[:2], *TINY, *arguments[2:], PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    (run_dir,) = run_directories(tmp_path)
    resolved = yaml.safe_load((run_dir / "resolved.yaml").read_text())
    used = {resolved[part]["_target_"] for part in ("decoder", "score")}
    assert resolved["predictor"]["decoder"]["_target_"] == "mine.ClockedDecoder"
    used |= {resolved["teacher_forcing"]["schedule"]["_target_"], resolved["data"]["source"]["_target_"]}
    assert used == {"mine.ClockedDecoder", "mine.Quartic", "mine.Switch", "mine.RandomWalk"}
    assert json.loads((run_dir / "result.json").read_text())["detector"]["score"] == "Quartic"
    kind = re.search(r"`score=planted (\+planted@\S+)`", TEXT).group(1)
    named = ["score=planted", kind, "score.copies=2", "score.windows=1000", "score.steps=10", "hydra.run.dir=named"]
    done = command(*arguments[:2], *TINY, *arguments[2:-1], *named, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "named/checkpoints/detector.pt", weights_only=True)["score"]
    assert len(state["kept"]) == len(list((CONF / "planted").glob("*.yaml"))) + 1
    assert state["kept"][-1]
    refused = command(*arguments, "teacher_forcing.schedule.until=0", "data.source.bars=1", PYTHONPATH=path)
    assert refused.returncode == 2
    assert "teacher_forcing.schedule.until is 0; it must be at least 1" in refused.stderr
    assert "data.source.bars is 1; it must be at least 2" in refused.stderr
