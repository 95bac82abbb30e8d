"""Scheduled teacher forcing: the probability, at an optimizer step, that the decoder is fed the truth.

A schedule is a pure function of the optimizer step, so a resumed run goes on where it was. Its horizon is a number of
steps, or a share of all steps of the run, which `TeacherForcing.begin` turns into steps once their number is known.

A coin turns the probability into a decision; coins are drawn from a generator seeded by (seed, step), so they are the
same on every process and in every repetition. Validation, test and scoring never use any of this: they run free.

Source: Bengio et al. 2015 (arXiv 1506.03099), section 2.4, for linear, exponential and inverse sigmoid decay.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal, Protocol, Self

import torch

from refold.bounds import at_least, checked, complaint, within
from refold.models import Feeding
from refold.training.seeds import generator

Ratio = Annotated[float, within(0, 1)]

Horizon = Annotated[float, within(0, 1, open_start=True)] | Annotated[int, at_least(1)]
"""A float in (0, 1] is a share of all optimizer steps of the run; a whole number from 1 on is that many steps."""


ARRIVED = 0.01
"""A schedule has come to its end where its ratio differs from the final one by no more."""


class Schedule(Protocol):
    """The probability of feeding the truth, in [0, 1], as a pure function of the optimizer step.

    A schedule that moves to a final ratio may have an attribute `arrival`: that ratio, and the optimizer steps after
    which the schedule is within `ARRIVED` of it. A run that ends before says so. One whose horizon is a share of
    the run has a method `over`, which takes the optimizer steps of the run and returns the schedule in steps.
    """

    def __call__(self, step: int) -> float:
        """Compute the ratio.

        Args:
            step: optimizer steps that are done, at least 0.

        Returns:
            In [0, 1].
        """
        ...


def is_share(horizon: float) -> bool:
    """Return whether a horizon is a share of the run: 0.05 and 1.0 are, 1 and 500 are steps."""
    return isinstance(horizon, float) and horizon <= 1


def in_steps(horizon: float, total: int) -> int:
    """Return a horizon in optimizer steps.

    Args:
        horizon: see `Horizon`.
        total: optimizer steps of the run, at least 1.

    Returns:
        At least 1; a share is rounded.
    """
    return max(1, round(horizon * total)) if is_share(horizon) else int(horizon)


def _known(horizon: float, key: str) -> float:
    """Return a horizon that is a number of steps; raise ValueError for a share of a run whose steps are not known."""
    if is_share(horizon):
        raise ValueError(
            f"teacher_forcing.schedule.{key} is {horizon}, a share of a run whose optimizer steps are not known: call "
            "begin(steps) first, or give a whole number of steps"
        )
    return horizon


@dataclass(frozen=True)
class FreeRunning:
    """Never feed the truth: the decoder learns under the conditions in which it is used."""

    def __call__(self, step: int) -> float:
        return 0.0


@checked("teacher_forcing.schedule")
@dataclass(frozen=True)
class Constant:
    """Keep the same ratio at each step; 1 is classic teacher forcing.

    Args:
        ratio: probability of feeding the truth, in [0, 1].
    """

    ratio: Ratio

    def __call__(self, step: int) -> float:
        return self.ratio


@dataclass(frozen=True)
class Ramp:
    """The horizon of a schedule that moves from `start` to `end` over `steps` optimizer steps, then keeps `end`.

    Args:
        start: ratio at step 0, in [0, 1].
        end: ratio from the last of the steps on, in [0, 1].
        steps: from start to end, as a share of the run in (0, 1], or optimizer steps, at least 1.
    """

    start: Ratio
    end: Ratio
    steps: Horizon

    def over(self, total: int) -> Self:
        """Return the schedule in steps of a run that has `total` of them."""
        return replace(self, steps=in_steps(self.steps, total))

    @property
    def arrival(self) -> tuple[float, int]:
        """The final ratio, and the optimizer steps until it."""
        return self.end, math.ceil(_known(self.steps, "steps"))

    def done(self, step: int) -> float:
        """Return the share of the way that is done at an optimizer step, in [0, 1]."""
        return min(step / _known(self.steps, "steps"), 1.0)


@checked("teacher_forcing.schedule")
class Linear(Ramp):
    """Follow a straight line; see `Ramp`."""

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * self.done(step)


@checked("teacher_forcing.schedule")
@dataclass(frozen=True)
class Exponential:
    """Start at 1 and halve the ratio every `half_life_steps` optimizer steps: k^step with k = 2^(-1 / half_life_steps).

    Args:
        half_life_steps: after them the ratio has halved: a share of the run in (0, 1], or optimizer steps, at least 1.
    """

    half_life_steps: Horizon

    def over(self, total: int) -> Self:
        """Return the schedule in steps of a run that has `total` of them."""
        return replace(self, half_life_steps=in_steps(self.half_life_steps, total))

    @property
    def arrival(self) -> tuple[float, int]:
        """The final ratio 0, and the optimizer steps until `ARRIVED`."""
        return 0.0, math.ceil(_known(self.half_life_steps, "half_life_steps") * math.log2(1 / ARRIVED))

    def __call__(self, step: int) -> float:
        return 0.5 ** (step / _known(self.half_life_steps, "half_life_steps"))


@checked("teacher_forcing.schedule")
@dataclass(frozen=True)
class InverseSigmoid:
    """Stay near 1 at first, pass 0.5 at `half_life_steps`, then fall towards 0: k / (k + exp(step / k)).

    The ratio starts at k / (k + 1) and passes 0.5 where step = k ln k, so k solves k ln k = half_life_steps.

    Args:
        half_life_steps: after them the ratio is 0.5: a share of the run in (0, 1], or optimizer steps, at least 1.
    """

    half_life_steps: Horizon

    def over(self, total: int) -> Self:
        """Return the schedule in steps of a run that has `total` of them."""
        return replace(self, half_life_steps=in_steps(self.half_life_steps, total))

    @cached_property
    def k(self) -> float:
        """The solution of k ln k = half_life_steps."""
        half_life = _known(self.half_life_steps, "half_life_steps")
        log_k = math.log1p(half_life)  # of k ln k = S: with w = ln k it reads w exp(w) = S
        for _ in range(50):  # Newton; w exp(w) is convex for w > 0 and the start lies above the root
            exp_k = math.exp(log_k)
            log_k -= (log_k * exp_k - half_life) / (exp_k * (log_k + 1))
        return math.exp(log_k)

    @property
    def arrival(self) -> tuple[float, int]:
        """The final ratio 0, and the optimizer steps until `ARRIVED`."""
        return 0.0, math.ceil(self.k * math.log(self.k * (1 / ARRIVED - 1)))

    def __call__(self, step: int) -> float:
        k = self.k
        exponent = step / k - math.log(k)  # 1 / (1 + exp(step / k) / k), written so that exp cannot overflow
        return 1 / (1 + math.exp(exponent)) if exponent < 700 else 0.0


@checked("teacher_forcing.schedule")
class Cosine(Ramp):
    """Follow half a cosine wave; see `Ramp`."""

    def __call__(self, step: int) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * self.done(step))) / 2


class TeacherForcing:
    """A schedule, and the coin that turns its ratio into a decision at each bar.

    Args:
        schedule: optimizer step -> probability of feeding the truth.
        coin: unit that one toss decides. `step`: a bar, for the whole batch. `sequence_step`: a bar of one window
            (Bengio et al. 2015). `sequence`: a whole window. `prefix`: no toss; the truth for the first
            round(ratio * T) bars.
        detach_feedback: True stops the gradient at the fed-back output.
        parallel_passes: 0 is exact. From 2 on, coins per window and bar run as that many fused passes in place of the
            loop over bars; an approximation (Mihaylova & Martins 2019, arXiv 1906.07651).
        input_dropout: probability that a bar of one window is fed as zeros, be it the truth or the decoder's own
            output, in [0, 1). The decoder can rely less on the bars before, and more on the code (word dropout: Bowman
            et al. 2016, arXiv 1511.06349, section 3.1).
        seed: coins and dropped bars depend on it and on the optimizer step alone.

    Raises:
        ValueError: parallel_passes is 1, or not 0 with another coin than `sequence_step`.
    """

    @checked("teacher_forcing")
    def __init__(
        self,
        *,
        schedule: Schedule,
        coin: Literal["step", "sequence_step", "sequence", "prefix"],
        detach_feedback: bool,
        parallel_passes: Literal[0] | Annotated[int, at_least(2)],
        input_dropout: Annotated[float, within(0, 1, open_end=True)],
        seed: int,
    ):
        if parallel_passes and coin != "sequence_step":
            raise ValueError(
                f"teacher_forcing.parallel_passes is {parallel_passes}; it must be 0 with teacher_forcing.coin={coin}: "
                "it needs teacher_forcing.coin=sequence_step, other coins run fused without it"
            )
        self.given = schedule
        self.schedule = schedule
        self.total: int | None = None
        self.coin = coin
        self.detach_feedback = detach_feedback
        self.parallel_passes = parallel_passes
        self.input_dropout = input_dropout
        self.seed = seed

    def begin(self, total: int) -> None:
        """Turn a horizon that is a share of the run into optimizer steps; call it before the first ratio.

        Args:
            total: optimizer steps of the whole run, those before a resume among them, at least 1.
        """
        over = getattr(self.given, "over", None)  # a schedule of the user's own may have no horizon
        self.schedule = self.given if over is None else over(total)
        self.total = total

    def describe_horizon(self, total: int, per_epoch: int) -> tuple[str, bool] | None:
        """Say from where to where the ratio moves, in steps and epochs.

        Args:
            total: optimizer steps of the whole run, at least 1.
            per_epoch: those of an epoch, at least 1.

        Returns:
            A sentence, and whether the run is long enough; None for a schedule without a final ratio.
        """
        end, needed = getattr(self.schedule, "arrival", (None, 0))
        if end is None:
            return None
        text = (
            f"teacher forcing: ratio {self.ratio(0):.2f} to {end:.2f} within {needed:,} of {total:,} optimizer steps, "
            f"{needed / per_epoch:.1f} of {total / per_epoch:.1f} epochs"
        )
        last = self.ratio(total - 1)
        if needed <= total or abs(last - end) <= ARRIVED:
            return text, True
        return f"{text}: its horizon is longer than the run, which ends at {last:.2f}", False

    def ratio(self, step: int) -> float:
        """Compute the probability of feeding the truth at an optimizer step.

        Args:
            step: optimizer steps that are done, at least 0.

        Returns:
            In [0, 1].

        Raises:
            ValueError: the schedule gives something else, as one of the user's own may.
        """
        ratio = self.schedule(step)
        wrong = complaint(Ratio, ratio)
        if wrong:
            raise ValueError(f"teacher_forcing.schedule gives {ratio!r} at optimizer step {step}; {wrong}")
        return ratio

    def feeding(self, step: int, *, batch_size: int, window_size: int, purpose: str = "coins") -> Feeding:
        """Decide for each bar of a batch whether the decoder is fed the truth, and whether as zeros.

        Args:
            step: optimizer steps that are done, at least 0.
            batch_size: B.
            window_size: T.
            purpose: what the coins are for; coins and dropped bars of two purposes are drawn apart.

        Returns:
            Coins of shape (T,), (B, 1) or (B, T) on the CPU, or None where every bar runs free; and the dropped bars.
        """
        ratio, dropped = self.ratio(step), None
        if self.input_dropout:
            drawn = generator(self.seed, f"dropout beside {purpose}", step)
            dropped = torch.rand(batch_size, window_size, generator=drawn) < self.input_dropout
        if ratio == 0:
            return Feeding(None, self.detach_feedback, self.parallel_passes, dropped)
        if self.coin == "prefix":
            coins = torch.arange(window_size) < round(ratio * window_size)
        else:
            shape = {"step": (window_size,), "sequence": (batch_size, 1), "sequence_step": (batch_size, window_size)}
            tosses = torch.rand(shape[self.coin], generator=generator(self.seed, purpose, step))
            coins = tosses < ratio
        return Feeding(coins, self.detach_feedback, self.parallel_passes, dropped)

    def describe_unfinished(self, steps: int) -> str | None:
        """Say how far the ratio was from its final value when a training ended.

        Args:
            steps: optimizer steps of the training, at least 1.

        Returns:
            A sentence with the last ratio and the steps that the schedule needs; None if it came to its end, or has
            none.
        """
        if self.total is None:  # nothing was trained here, as where a run resumes at its end
            self.begin(steps)
        end, needed = getattr(self.schedule, "arrival", (None, 0))
        last = self.ratio(steps - 1)
        if end is None or steps >= needed or abs(last - end) <= ARRIVED:
            return None
        return (
            f"teacher forcing ended at a ratio of {last:.2f}: its schedule comes to {end:.2f} after {needed:,} "
            f"optimizer steps, and the training had {steps:,}; shorten teacher_forcing.schedule, or train longer"
        )
