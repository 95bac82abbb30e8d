"""Draw the teacher-forcing ratio of every schedule in conf/teacher_forcing over a run.

python scripts/plot_schedules.py docs/schedules.png
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import OmegaConf

FOLDER = Path(__file__).parents[1] / "conf" / "teacher_forcing"
TOTAL = 5000
"""Optimizer steps of the run."""


def draw() -> Figure:
    """One line per YAML, with its default settings."""
    figure, axis = plt.subplots(figsize=(8, 3.5), layout="constrained")
    for path in sorted(FOLDER.glob("*.yaml")):
        schedule = instantiate(OmegaConf.load(path).schedule)
        schedule = schedule.over(TOTAL) if hasattr(schedule, "over") else schedule
        steps = range(0, TOTAL * 3 // 10, 5)
        axis.plot([step / TOTAL for step in steps], [schedule(step) for step in steps], label=path.stem)
    axis.set(xlabel="share of the optimizer steps", ylabel="probability of feeding the truth", ylim=(-0.02, 1.02))
    axis.legend(title="teacher_forcing=", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


if __name__ == "__main__":
    draw().savefig(sys.argv[1], dpi=120)
