"""Measure what a training step gains from a C library that keeps the memory of the step before.

    python scripts/bench allocator                     # B windows of T = 64 bars, F = 5, H = 64, one layer, float32

Steps as glibc has them by default and within `refold.launch.memory.keeping_freed_memory` take turns in one process.
"""

import statistics
import time
from contextlib import nullcontext

import torch

from refold.launch.memory import keeping_freed_memory
from refold.models import build

SIZES = (32, 64, 128, 256, 512)
"""Windows of a batch, B."""
T, F, H = 64, 5, 64
STEPS = 4
"""Steps of a turn; the first one is not timed."""


def report(repeats: int) -> str:
    """Time the steps of all sizes, and return the table in Markdown.

    Args:
        repeats: turns of each.
    """
    torch.set_num_threads(1)
    head = f"torch {torch.__version__}, one thread, {repeats} turns. Command: `python scripts/bench allocator`."
    lines = [head, "", "| B | by default, ms | memory kept, ms | ratio | ratios |", "|---" * 5 + "|"]
    for B in SIZES:
        step = training_step(B)
        pairs = [(seconds(step, nullcontext()), seconds(step, keeping_freed_memory())) for _ in range(repeats)]
        ratios = sorted(kept / plain for plain, kept in pairs)
        plain, kept = (1000 * statistics.median(values) for values in zip(*pairs, strict=True))
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        lines.append(f"| {B} | {plain:.1f} | {kept:.1f} | {statistics.median(ratios):.2f} | {spread} |")
    return "\n".join(lines)


def training_step(B: int):
    """Return a function that takes one step of training on B random windows, running free."""
    model = build(num_features=F, decoder="autoregressive", layers=1, hidden_size=H, latent_dim=16)
    optimizer, windows = torch.optim.AdamW(model.parameters()), torch.randn(B, T, F)

    def step() -> None:
        optimizer.zero_grad()
        (model(windows) - windows).square().mean().backward()
        optimizer.step()

    return step


def seconds(step, memory) -> float:
    """Return the median CPU seconds of a step within a context."""
    times = []
    with memory:
        for _ in range(STEPS):
            start = time.process_time()
            step()
            times.append(time.process_time() - start)
    return statistics.median(times[1:])
