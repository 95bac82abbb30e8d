"""Decoding in a closed loop: each step is fed the truth, or what the step before it put out.

Legend: B windows, T bars, F features, H hidden size, Z conditioning size, L layers.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Feeding(NamedTuple):
    """Which decoding steps are fed the truth. Step 0 always takes the start token, so its coin is never looked at.

    coins: bool, on the CPU (reading them then waits for no GPU), True = truth. (T,) one per step, shared by the batch;
        (B, 1) one per sequence; (B, T) one per sequence and step; None = run free.
    detach_feedback: no gradient flows through an output that is fed back.
    parallel_passes: 0 = exact. n >= 2 = an approximation for (B, T) coins (Mihaylova & Martins 2019): n teacher-forced
        passes, each fed a mix of the truth and the outputs of the pass before; n >= T passes are exact again.
    """

    coins: Tensor | None
    detach_feedback: bool
    parallel_passes: int


FREE = Feeding(coins=None, detach_feedback=False, parallel_passes=0)


def check_feeding(feeding: Feeding, truth: Tensor | None, batch_size: int, window_size: int) -> None:
    """Refuse coins of the wrong shape, type or place, coins without a truth to feed, and an impossible pass count."""
    coins, passes = feeding.coins, feeding.parallel_passes
    if passes < 0 or passes == 1:
        raise ValueError(f"teacher_forcing.parallel_passes is {passes}; it must be 0 (exact) or at least 2")
    if coins is None:
        return
    if truth is None:
        raise ValueError("truth is None; it must be (B, T, F) where teacher_forcing.coin may pick it")
    shapes = [(window_size,), (batch_size, 1), (batch_size, window_size)]
    if tuple(coins.shape) not in shapes or coins.dtype != torch.bool or coins.device.type != "cpu":
        raise ValueError(
            f"coins are {tuple(coins.shape)}, {coins.dtype}, on {coins.device.type}; they must be bool, on the CPU, "
            f"and (T,), (B, 1) or (B, T) with B = {batch_size}, T = {window_size} (teacher_forcing.coin)"
        )


def unroll(
    lstm: nn.LSTM,
    projection: nn.Linear,
    start: Tensor,
    conditioning: Tensor | None,
    state: tuple[Tensor, Tensor],
    window_size: int,
    truth: Tensor | None,
    feeding: Feeding,
) -> Tensor:
    """Decode T steps; step t is fed the truth or the output of step t - 1.

    Args: lstm, projection: the decoder's weights. start: (F,) input of step 0. conditioning: (B, Z) beside each input,
        or None. state: (h, c), each (L, B, H). window_size: T. truth: (B, T, F) in the order of decoding.
    Returns: outputs (B, T, F) in the order of decoding.
    """
    B, F = state[0].shape[1], projection.out_features
    coins = torch.zeros(1, 1, dtype=torch.bool) if feeding.coins is None else feeding.coins
    coins = coins.expand(B, window_size).to(state[0].device)
    outputs: list[Tensor] = []
    for t in range(window_size):
        step_input = start.expand(B, F)
        if t > 0:
            own = outputs[-1].detach() if feeding.detach_feedback else outputs[-1]
            step_input = own if truth is None else torch.where(coins[:, t, None], truth[:, t - 1], own)
        if conditioning is not None:
            step_input = torch.cat([step_input, conditioning], dim=1)
        hidden, state = lstm(step_input.unsqueeze(1), state)
        outputs.append(projection(hidden.squeeze(1)))
    return torch.stack(outputs, dim=1)  # T x (B, F) -> (B, T, F)
