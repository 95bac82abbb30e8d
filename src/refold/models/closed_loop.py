"""Decode in a closed loop, each step fed the truth or the output of the step before: exactly, and in fused calls.

Letters as in `refold.models`.

**The fold.** A decoder of one layer computes, with input u_t (F), an optional constant z (C) and output y_t (F),

    gates_t = W_x u_t + W_z z + W_h h_{t-1} + b        y_t = W_o h_t + b_o

Where it is fed its own output, u_t = y_{t-1} = W_o h_{t-1} + b_o is linear in the state that the cell multiplies by
W_h anyway:

    gates_t = (W_h + W_x W_o) h_{t-1} + W_z z + (b + W_x b_o)

A free-running stretch is therefore one fused LSTM call with recurrent matrix W_h + W_x W_o, bias b + W_x b_o and no
input from outside. Nothing is approximated, and autograd takes the gradient of the two small products back to W_x, W_h,
W_o, b and b_o.

**The first step of a call is free to be of either kind**, because the state before it is known. A folded call given
e_t = u_t - y_{t-1} as its input computes W_x e_t + W_x y_{t-1} + ... = W_x u_t + ...: with e_t = 0 but at its first
step it takes the start token, or one true bar, and then runs free. So running free for a whole window is *one* call,
start token included, and a sequence of coins shared by the batch costs one call per `segment`: a first step and as many
steps after it as have equal coins. Fair coins make segments of 3 steps on average, where runs of equal coins have 2.

| coins | computed as |
|---|---|
| none, or (T,): free, prefix, one coin per step | one fused call per segment; stepping where segments are short |
| (B, 1): one per sequence | truth-fed and free sequences apart, one fused call each |
| (B, T): one per sequence and step | stepping |
| all True, any L | one fused call |
| L > 1 otherwise | stepping: between y_{t-1} and gates_t of the top layer stand the layers below |

**Without gradient through the fed-back output** (`detach_feedback`) the fold's gradient is not the one asked for. The
outputs of a pass without gradient are then fed, as if they were the truth, to one truth-fed call: same values, and
gradients of the inputs stop there.

**A bar that is dropped** is zeros in place of the truth or of the output, which is to say a true bar of zeros: its step
gets the coin of the truth, and the table above holds.

**Differentiated once.** Stepping's backward is written by hand, so that double backward and the transforms of
`torch.func` raise a RuntimeError there; paths of fused calls alone take both on a CPU (cuDNN has no second derivative).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from refold.models.fused import Layer, State, fused_lstm
from refold.models.stepping import step_by_step


class Feeding(NamedTuple):
    """The decoding steps that are fed the truth. Step 0 always takes the start token, so its coin is never read.

    Attributes:
        coins: bool, on the CPU so that reading them waits for no GPU; True is the truth. (T,) has one per step, shared
            by the batch; (B, 1) one per sequence; (B, T) one per sequence and step; None runs free.
        detach_feedback: True stops the gradient at an output that is fed back.
        parallel_passes: 0 is exact. n of at least 2, with coins (B, T), is an approximation (Mihaylova & Martins
            2019): n passes are fed the truth and, where a coin is False, the output of the pass before. With n of at
            least T it is exact again.
        dropped: (B, T) bool, on the CPU; True feeds zeros at that step, whatever its coin says. None drops nothing.
    """

    coins: Tensor | None
    detach_feedback: bool
    parallel_passes: int
    dropped: Tensor | None = None


FREE = Feeding(coins=None, detach_feedback=False, parallel_passes=0)


class Weights(NamedTuple):
    """The weights of a decoder's LSTM and of its projection, and the dropout between its layers."""

    layers: Sequence[Layer]
    w_o: Tensor  # (F, H)
    b_o: Tensor  # (F,)
    dropout: float  # probability of dropping a number between two layers, 0 in evaluation


def weights_of(lstm: nn.LSTM, projection: nn.Linear) -> Weights:
    """Collect the weights of two modules for the functions of this file.

    Args:
        lstm: an LSTM with batch_first and biases.
        projection: (B, T, H) -> (B, T, F).

    Returns:
        The weights; dropout is 0 unless the LSTM is in training mode.
    """
    return Weights(lstm.all_weights, projection.weight, projection.bias, lstm.dropout if lstm.training else 0.0)


def check_feeding(feeding: Feeding, truth: Tensor | None, batch_size: int, window_size: int) -> None:
    """Refuse coins and drops of the wrong shape, type or device, coins without a truth, and passes that do not fit.

    Args:
        feeding: to be checked.
        truth: (B, T, F), or None.
        batch_size: B.
        window_size: T.

    Raises:
        ValueError: one is refused; the message names the value, its bound and the config key.
    """
    coins, passes, dropped = feeding.coins, feeding.parallel_passes, feeding.dropped
    if passes < 0 or passes == 1:
        raise ValueError(f"teacher_forcing.parallel_passes is {passes}; it must be 0 (exact) or at least 2")
    whole, cpu = (batch_size, window_size), "cpu"
    if dropped is not None and (tuple(dropped.shape), dropped.dtype, dropped.device.type) != (whole, torch.bool, cpu):
        raise ValueError(
            f"dropped is {tuple(dropped.shape)}, {dropped.dtype}, on {dropped.device.type}; it must be torch.bool, on "
            f"the CPU, and (B, T) = {whole} (teacher_forcing.input_dropout)"
        )
    if coins is None:
        return
    if truth is None:
        raise ValueError("truth is None; it must be (B, T, F) where coins may pick it (teacher_forcing.coin)")
    shapes = [(window_size,), (batch_size, 1), whole]
    if tuple(coins.shape) not in shapes or (coins.dtype, coins.device.type) != (torch.bool, cpu):
        raise ValueError(
            f"coins are {tuple(coins.shape)}, {coins.dtype}, on {coins.device.type}; they must be torch.bool, on the "
            f"CPU, and (T,), (B, 1) or (B, T) with B = {batch_size}, T = {window_size} (teacher_forcing.coin)"
        )
    if passes and tuple(coins.shape) != whole:
        raise ValueError(
            f"teacher_forcing.parallel_passes is {passes}; it must be 0 unless teacher_forcing.coin=sequence_step: "
            "for other coins the exact result costs no more"
        )


def fold(weights: Weights) -> Layer:
    """Fold the projection of a one-layer decoder into its LSTM: W_h + W_x W_o and b + W_x b_o replace W_h and b.

    The fold is computed in the weights' own precision, under autocast too: in bf16 it would be rounded twice.

    Args:
        weights: weights of one layer.

    Returns:
        The layer that runs free: its input is the difference of what is fed to it and its own last output.
    """
    ((w_ih, w_hh, b_ih, b_hh),) = weights.layers
    w_x = w_ih[:, : len(weights.b_o)]  # the columns of the fed-back output stand before those of the conditioning
    with torch.autocast(w_x.device.type, enabled=False):
        return [w_ih, w_hh + w_x @ weights.w_o, b_ih + w_x @ weights.b_o, b_hh]


def segments(coins: list[bool]) -> list[tuple[int, int, bool]]:
    """Cut steps into the fewest stretches whose steps after the first have equal coins.

    Taking the longest stretch each time gives the fewest, because a stretch without its head is a stretch again.

    Args:
        coins: T, True where a step is fed the truth.

    Returns:
        For each stretch its first step, the step after its last, and the coin of its steps after the first.
    """
    cut, start = [], 0
    while start < len(coins):
        kind = coins[min(start + 1, len(coins) - 1)]
        end = start + 1
        while end < len(coins) and coins[end] == kind:
            end += 1
        cut.append((start, end, kind))
        start = end
    return cut


def by_segments(weights: Weights, fed: Tensor, coins: list[bool], conditioning: Tensor | None, state: State) -> Tensor:
    """Decode with one layer, in one fused call per segment.

    Args:
        weights: weights of one layer.
        fed: (B, T, F), the input of the steps whose coin is True.
        coins: T, the first True.
        conditioning: (B, C) beside each input, or None.
        state: first (h, c), each (1, B, H).

    Returns:
        Outputs (B, T, F).
    """
    project = nn.functional.linear
    folded = fold(weights)
    hidden = []
    for start, end, kind in segments(coins):
        first = fed[:, start]
        # y_{start-1}, which a segment that is fed the truth throughout does not need
        own = first if coins[start] and kind else project(state[0][-1], weights.w_o, weights.b_o)
        first = first if coins[start] else own
        if kind:
            inputs = torch.cat([first.unsqueeze(1), fed[:, start + 1 : end]], dim=1)
        else:  # (B, F) -> (B, end - start, F), 0 after the first step: the folded layer adds its own output
            inputs = nn.functional.pad((first - own).unsqueeze(1), (0, 0, 0, end - start - 1))
        out, state = fused_lstm(_beside(inputs, conditioning), state, weights.layers if kind else [folded], 0.0)
        hidden.append(out)
    joined = hidden[0] if len(hidden) == 1 else torch.cat(hidden, dim=1)  # cat would copy a single one
    return project(joined, weights.w_o, weights.b_o)  # (B, T, H) -> (B, T, F), one product for all steps


def truth_fed(weights: Weights, fed: Tensor, conditioning: Tensor | None, state: State) -> Tensor:
    """Decode with every step fed from outside, in one fused call for any number of layers.

    Args:
        weights: weights of the decoder.
        fed: (B, T, F), the inputs.
        conditioning: (B, C) beside each input, or None.
        state: first (h, c), each (L, B, H).

    Returns:
        Outputs (B, T, F).
    """
    hidden, _ = fused_lstm(_beside(fed, conditioning), state, weights.layers, weights.dropout)
    return nn.functional.linear(hidden, weights.w_o, weights.b_o)


def _beside(inputs: Tensor, conditioning: Tensor | None) -> Tensor:
    """Put the conditioning (B, C) beside each input (B, T, F) -> (B, T, F + C)."""
    if conditioning is None:
        return inputs
    return torch.cat([inputs, conditioning.unsqueeze(1).expand(-1, inputs.shape[1], -1)], dim=2)


def _mix(fed: Tensor, coins: Tensor, outputs: Tensor) -> Tensor:
    """Pick each step's input: fed (B, T, F) where coins (1 or B, T) are True, else the output of the step before."""
    before = nn.functional.pad(outputs[:, :-1], (0, 0, 1, 0))
    return torch.where(coins.unsqueeze(2).to(fed.device, non_blocking=True), fed, before)


SEGMENTS_PER_STEP = 0.2
"""Stepping is faster where segments are shorter than 5 steps on average (docs/benchmarks.md)."""


def unroll(
    weights: Weights,
    start_token: Tensor,
    conditioning: Tensor | None,
    state: State,
    window_size: int,
    truth: Tensor | None,
    feeding: Feeding,
) -> Tensor:
    """Decode T steps in a closed loop, by the fastest exact way that the coins allow.

    Args:
        weights: weights of the decoder.
        start_token: (F,), input of step 0.
        conditioning: (B, C) beside each input, or None.
        state: first (h, c), each (L, B, H).
        window_size: T.
        truth: (B, T, F) in the order of decoding; None without coins.
        feeding: the steps that are fed the truth; checked.

    Returns:
        Outputs (B, T, F) in the order of decoding.
    """
    B, T = state[0].shape[1], window_size
    start = start_token.expand(B, 1, -1)
    if feeding.coins is None or truth is None:
        coins, fed = torch.zeros(T, dtype=torch.bool), start.expand(B, T, -1)
    elif feeding.coins.shape == (B, 1):
        return _sequences_apart(weights, start_token, conditioning, state, T, truth, feeding)
    else:  # step t is fed bar t - 1
        coins, fed = feeding.coins.clone(), torch.cat([start, truth[:, :-1]], dim=1)
    if feeding.dropped is not None:
        dropped = feeding.dropped & (torch.arange(T) > 0)  # the start token stays
        coins, fed = coins | dropped, fed.masked_fill(dropped.unsqueeze(2).to(fed.device, non_blocking=True), 0.0)
    coins[..., 0] = True
    if coins.all():
        return truth_fed(weights, fed, conditioning, state)
    if feeding.parallel_passes and feeding.coins is not None:
        return _in_parallel(weights, fed, coins, conditioning, state, feeding)
    detach = feeding.detach_feedback and torch.is_grad_enabled()
    coins = coins[0] if B == 1 and coins.ndim == 2 else coins
    folds = coins.ndim == 1 and len(weights.layers) == 1
    if not folds or len(segments(coins.tolist())) > max(2.0, SEGMENTS_PER_STEP * T):
        return step_by_step(
            *weights[:3], fed, coins, conditioning, state, dropout=weights.dropout, detach_feedback=detach
        )
    with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
        outputs = by_segments(weights, fed, coins.tolist(), conditioning, state)
    if detach:
        return truth_fed(weights, _mix(fed, coins.unsqueeze(0), outputs), conditioning, state)
    return outputs


def _in_parallel(
    weights: Weights, fed: Tensor, coins: Tensor, conditioning: Tensor | None, state: State, feeding: Feeding
) -> Tensor:
    """Approximate coins (B, T) as `Feeding.parallel_passes` describes. fed: (B, T, F). Returns (B, T, F)."""
    outputs = truth_fed(weights, fed, conditioning, state)
    for _ in range(feeding.parallel_passes - 1):
        own = outputs.detach() if feeding.detach_feedback else outputs
        outputs = truth_fed(weights, _mix(fed, coins, own), conditioning, state)
    return outputs


def _rows(values: Tensor | None, index: Tensor) -> Tensor | None:
    """Pick the sequences of an index from values (B, ...); None stays None."""
    return None if values is None else values[index]


def _sequences_apart(
    weights: Weights,
    start_token: Tensor,
    conditioning: Tensor | None,
    state: State,
    window_size: int,
    truth: Tensor,
    feeding: Feeding,
) -> Tensor:
    """Decode under coins (B, 1): truth-fed and free sequences apart, then put back in their order -> (B, T, F)."""
    parts, rows = [], []
    assert feeding.coins is not None
    for kind in (True, False):
        row = (feeding.coins[:, 0] == kind).nonzero().squeeze(1)
        if len(row):
            index = row.to(state[0].device, non_blocking=True)
            parts.append(
                unroll(
                    weights,
                    start_token,
                    _rows(conditioning, index),
                    (state[0][:, index], state[1][:, index]),
                    window_size,
                    truth[index],
                    feeding._replace(coins=torch.full((window_size,), kind), dropped=_rows(feeding.dropped, row)),
                )
            )
            rows.append(index)
    return torch.cat(parts)[torch.cat(rows).argsort()]
