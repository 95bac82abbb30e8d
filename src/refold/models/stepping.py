"""The closed loop one step at a time, for what does not fold: several layers, or coins per sequence and step.

A loop over nn.LSTM spends its time in calls, copies and bookkeeping, not in products. `Stepping` is one autograd
function over all T steps with its backward written out, so that per step only what depends on the step before is left:

- everything is (size, B): the four gates of a step are then contiguous blocks, and one product [W_h W_x] [h; u] fills
  them. Rows are ordered o, i, f, g, which puts the three sigmoids into one call, and the three gradients that follow
  from the cell's into another;
- backward, the factors that do not depend on gradients (o(1 - o) tanh c, ...) are computed for all steps at once,
- and so is each weight's gradient: one product per layer after the loop.

Where no gradients are asked for, `run_steps` keeps one step instead of all of them.

Letters as in `refold.models`; I numbers that a layer reads at a step.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from refold.models.fused import Layer, State


class _Tape(NamedTuple):
    """The values of one layer at all steps. Step t reads joint[t] and cells[t], and writes h and c of t + 1."""

    joint: Tensor  # (T + 1, H + I, B): h_{t-1} above the layer's input u_t
    gates: Tensor  # (T, 4 H, B): o, i, f, g after their nonlinearity
    cells: Tensor  # (T + 1, H, B)
    tanh_cells: Tensor  # (T, H, B)


def _make_tape(h: Tensor, c: Tensor, input_size: int, T: int) -> _Tape:
    """Allocate a layer's tape and write its first h and c, each (H, B), into it."""
    H, B = h.shape
    sizes = (T + 1, H + input_size, B), (T, 4 * H, B), (T + 1, H, B), (T, H, B)
    tape = _Tape(*(h.new_empty(size) for size in sizes))
    tape.joint[0, :H], tape.cells[0] = h, c
    return tape


def _cell_steps(tape: _Tape, constant: Tensor, weight: Tensor) -> Callable[[int], Tensor]:
    """Return a function of t that computes step t of one layer and returns h_t (H, B). Views are made once, here."""
    H = tape.cells.shape[1]
    sigmoids, cell_inputs = tape.gates[:, : 3 * H].unbind(), tape.gates[:, 3 * H :].unbind()
    outs, ins, forgets = (tape.gates[:, n * H : (n + 1) * H].unbind() for n in range(3))
    joints, hiddens = tape.joint.unbind(), tape.joint[1:, :H].unbind()
    gates, cells, tanh_cells = tape.gates.unbind(), tape.cells.unbind(), tape.tanh_cells.unbind()

    def step(t: int) -> Tensor:
        torch.addmm(constant, weight, joints[t], out=gates[t])
        sigmoids[t].sigmoid_()
        cell_inputs[t].tanh_()
        torch.mul(forgets[t], cells[t], out=cells[t + 1]).addcmul_(ins[t], cell_inputs[t])
        torch.tanh(cells[t + 1], out=tanh_cells[t])
        return torch.mul(outs[t], tanh_cells[t], out=hiddens[t])

    return step


def _local_derivatives(tape: _Tape) -> tuple[Tensor, Tensor, Tensor]:
    """Compute, for all steps at once, the factors that turn gradients of h and c into those of the gates' sums.

    Returns:
        Factors (T, 4, H, B), the first for dh, the others for dc; dc/dh (T, H, B); dc_{t-1}/dc_t (T, H, B).
    """
    T, H, B = tape.tanh_cells.shape
    o, i, f, g = tape.gates.view(T, 4, H, B).unbind(1)
    factors = o.new_empty(T, 4, H, B)
    torch.mul(o * (1 - o), tape.tanh_cells, out=factors[:, 0])
    torch.mul(i * (1 - i), g, out=factors[:, 1])
    torch.mul(f * (1 - f), tape.cells[:-1], out=factors[:, 2])
    torch.mul(i, 1 - g.square(), out=factors[:, 3])
    return factors, o * (1 - tape.tanh_cells.square()), f


def _cell_backward_steps(
    tape: _Tape, weight: Tensor, d_joint: Tensor, d_c: Tensor
) -> tuple[Callable[[int], None], Tensor]:
    """Return a function of t that goes back over step t of one layer, and the gradients that it fills.

    The function turns d_joint (H + I, B), whose h part is the gradient after step t, and d_c (H, B) into those before
    step t, in place. It writes the gradients of the gates' sums into the tensor (T, 4 H, B) that is returned too.
    """
    factors, from_hidden, from_next = _local_derivatives(tape)
    d_gates = factors.flatten(1, 2)  # a view
    d_h, weight_t = d_joint[: len(d_c)], weight.t().contiguous()
    by_h, by_c = factors[:, 0].unbind(), factors[:, 1:].unbind()
    gates, from_hidden, from_next = d_gates.unbind(), from_hidden.unbind(), from_next.unbind()

    def step(t: int) -> None:
        d_c.addcmul_(d_h, from_hidden[t])
        by_h[t].mul_(d_h)
        by_c[t].mul_(d_c)
        d_c.mul_(from_next[t])
        torch.mm(weight_t, gates[t], out=d_joint)

    return step, d_gates


def _sum_over_steps(left: Tensor, right: Tensor) -> Tensor:
    """Sum left_t right_t' over t in one product: (T, N, B), (T, M, B) -> (N, M)."""
    left, right = (part.transpose(0, 1).flatten(1) for part in (left, right))  # -> (N, T B), (M, T B)
    return (right @ left.t()).t()  # with the smaller one first: a fifth less time on a CPU than left @ right'


class Stepping(torch.autograd.Function):
    """T closed-loop steps of an LSTM of L layers and its projection, as `step_by_step` describes them."""

    @staticmethod
    def forward(
        ctx: Any,
        fed: Tensor,
        coins: Tensor,
        kept: Tensor | None,
        h: Tensor,
        c: Tensor,
        w_o: Tensor,
        b_o: Tensor,
        detach_feedback: bool,
        *constants_and_weights: Tensor,
    ) -> Tensor:
        """Compute all steps, and keep the values that the gradients need.

        Args:
            ctx: torch's, to keep values in.
            fed: (T, F, B), the input of the steps whose coin is True.
            coins: (T, 1, B or 1) bool.
            kept: (L - 1, T, H, B), factors of dropout between layers; None without dropout.
            h: (L, H, B).
            c: (L, H, B).
            w_o: (F, H), of the projection.
            b_o: (F,), of the projection.
            detach_feedback: True stops the gradient at an output that is fed back.
            constants_and_weights: first each layer's constant (4 H, B), then each layer's weight (4 H, H + I), rows
                in the order o, i, f, g.

        Returns:
            Outputs (T, F, B).
        """
        T, (L, H, _) = len(fed), h.shape
        constants, weights = constants_and_weights[:L], constants_and_weights[L:]
        tapes = [_make_tape(h[n], c[n], weights[n].shape[1] - H, T) for n in range(L)]
        cells = [_cell_steps(*layer) for layer in zip(tapes, constants, weights, strict=True)]
        inputs = [tape.joint[:, H:].unbind() for tape in tapes]
        outputs = fed.new_empty(fed.shape)
        truths, picks, bias = fed.unbind(), coins.unbind(), b_o.unsqueeze(1)
        inputs[0][0].copy_(truths[0])
        for t, output in enumerate(outputs.unbind()):
            hidden = cells[0](t)
            for n in range(1, L):
                torch.mul(hidden, kept[n - 1, t], out=inputs[n][t]) if kept is not None else inputs[n][t].copy_(hidden)
                hidden = cells[n](t)
            torch.addmm(bias, w_o, hidden, out=output)
            if t + 1 < T:
                torch.where(picks[t + 1], truths[t + 1], output, out=inputs[0][t + 1])
        ctx.detach_feedback = detach_feedback
        ctx.save_for_backward(coins, kept, w_o, *weights, *(buffer for tape in tapes for buffer in tape))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator has no types
        ctx: Any, *gradients: Any
    ) -> tuple[Tensor | None, ...]:
        """Go back over all steps; takes the gradient of the outputs (T, F, B), and returns one per argument."""
        (d_outputs,) = gradients
        coins, kept, w_o, *rest = ctx.saved_tensors
        L = len(rest) // 5
        H = w_o.shape[1]
        weights, tapes = rest[:L], [_Tape(*rest[n : n + 4]) for n in range(L, 5 * L, 4)]
        d_outputs, d_fed = d_outputs.clone(memory_format=torch.contiguous_format), torch.empty_like(d_outputs)
        d_joints = [tape.joint.new_zeros(tape.joint.shape[1:]) for tape in tapes]  # (H + I, B), of the step at hand
        d_h = [d_joint[:H] for d_joint in d_joints]
        d_c = [torch.zeros_like(d) for d in d_h]
        layers = [_cell_backward_steps(*layer) for layer in zip(tapes, weights, d_joints, d_c, strict=True)]
        cells, d_gates = zip(*layers, strict=True)
        own, d_input = (~coins).to(d_outputs.dtype).unbind(), d_joints[0][H:]
        for t in reversed(range(len(d_outputs))):
            d_h[-1].addmm_(w_o.t(), d_outputs[t])
            for n in reversed(range(L)):
                cells[n](t)
                if n > 0:
                    d_h[n - 1].add_(d_joints[n][H:] if kept is None else d_joints[n][H:] * kept[n - 1, t])
            d_fed[t] = d_input
            if t > 0 and not ctx.detach_feedback:
                d_outputs[t - 1].addcmul_(d_input, own[t])
        d_state = torch.stack(d_h), torch.stack(d_c)
        d_w_o = _sum_over_steps(d_outputs, tapes[-1].joint[1:, :H])
        d_constants = [d.sum(0) for d in d_gates]
        d_weights = [_sum_over_steps(d, tape.joint[:-1]) for d, tape in zip(d_gates, tapes, strict=True)]
        return d_fed.mul_(coins), None, None, *d_state, d_w_o, d_outputs.sum((0, 2)), None, *d_constants, *d_weights


def run_steps(
    fed: Tensor,
    coins: Tensor,
    h: Tensor,
    c: Tensor,
    w_o: Tensor,
    b_o: Tensor,
    constants: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> Tensor:
    """Compute what `Stepping` does, without dropout and gradients: the same operations, in the memory of one step.

    Args:
        fed: as for `Stepping.forward`, and so are the others.
        coins: as there.
        h: as there.
        c: as there.
        w_o: as there.
        b_o: as there.
        constants: as there.
        weights: as there.

    Returns:
        Outputs (T, F, B).
    """
    H, B = h.shape[1:]
    outputs, gates, tanh_cell = fed.new_empty(fed.shape), fed.new_empty(4 * H, B), fed.new_empty(H, B)
    sigmoids, out, into, forget = (gates[first * H : end * H] for first, end in ((0, 3), (0, 1), (1, 2), (2, 3)))
    cell_input = gates[3 * H :]
    joints = [fed.new_empty(weight.shape[1], B) for weight in weights]  # h above the layer's input
    cells, hiddens = [own.clone() for own in c], [joint[:H] for joint in joints]
    for hidden, own in zip(hiddens, h, strict=True):
        hidden.copy_(own)
    followers = [*(joint[H:] for joint in joints[1:]), None]
    layers = list(zip(constants, weights, joints, cells, hiddens, followers, strict=True))
    read, last, bias = joints[0][H:], hiddens[-1], b_o.unsqueeze(1)
    before = fed[0]
    for truth, pick, output in zip(fed.unbind(), coins.unbind(), outputs.unbind(), strict=True):
        torch.where(pick, truth, before, out=read)
        for constant, weight, joint, cell, hidden, follower in layers:
            torch.addmm(constant, weight, joint, out=gates)
            sigmoids.sigmoid_()
            cell_input.tanh_()
            cell.mul_(forget).addcmul_(into, cell_input)
            torch.tanh(cell, out=tanh_cell)
            torch.mul(out, tanh_cell, out=hidden)
            if follower is not None:
                follower.copy_(hidden)
        before = torch.addmm(bias, w_o, last, out=output)
    return outputs


def step_by_step(
    layers: Sequence[Layer],
    w_o: Tensor,
    b_o: Tensor,
    fed: Tensor,
    coins: Tensor,
    conditioning: Tensor | None,
    state: State,
    *,
    dropout: float,
    detach_feedback: bool,
) -> Tensor:
    """Decode T closed-loop steps: step t takes fed[:, t] where its coin is True, else the output of the step before.

    The steps run in the weights' own precision, under autocast too: so many small casts would cost more than they
    save.

    Args:
        layers: weights of the L layers.
        w_o: (F, H), of the projection.
        b_o: (F,), of the projection.
        fed: (B, T, F).
        coins: (T,) or (B, T) bool, on the CPU, True at the first step.
        conditioning: (B, C) beside each input, or None.
        state: first (h, c), each (L, B, H).
        dropout: probability of dropping a number between two layers, in [0, 1).
        detach_feedback: True stops the gradient at an output that is fed back.

    Returns:
        Outputs (B, T, F).
    """
    B, T, _ = fed.shape
    H = w_o.shape[1]
    h, c = (part.to(w_o.dtype).transpose(1, 2) for part in state)  # (L, B, H) -> (L, H, B)
    fed = fed.to(w_o.dtype).permute(1, 2, 0)  # (B, T, F) -> (T, F, B)
    picks = coins.expand(1 if coins.ndim == 1 else B, T).t().unsqueeze(1).contiguous()  # -> (T, 1, 1 or B)
    picks = picks.to(fed.device, non_blocking=True)
    with torch.autocast(fed.device.type, enabled=False):
        constants, weights = _join(layers, len(b_o), conditioning)
        constants = [constant.roll(H, 0).expand(-1, B) for constant in constants]  # rows i, f, g, o -> o, i, f, g
        weights = [weight.roll(H, 0) for weight in weights]
        kept = None
        if dropout > 0 and len(layers) > 1:
            kept = torch.nn.functional.dropout(fed.new_ones(len(layers) - 1, T, H, B), dropout)
        if kept is None and not torch.is_grad_enabled():
            outputs = run_steps(fed, picks, h, c, w_o, b_o, constants, weights)
        else:
            outputs = Stepping.apply(fed, picks, kept, h, c, w_o, b_o, detach_feedback, *constants, *weights)
    return outputs.permute(2, 0, 1)  # (T, F, B) -> (B, T, F)


def _join(layers: Sequence[Layer], F: int, conditioning: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
    """Return for each layer the constant that every step adds (4 H, 1 or B), and the matrix [W_h W_x] of [h; u]."""
    constants = [(b_ih + b_hh).unsqueeze(1) for _, _, b_ih, b_hh in layers]
    inputs = [w_ih for w_ih, _, _, _ in layers]
    if conditioning is not None:  # the same at each step, so that its product leaves the loop
        constants[0] = constants[0] + inputs[0][:, F:] @ conditioning.to(inputs[0].dtype).t()
        inputs[0] = inputs[0][:, :F]
    return constants, [torch.cat([w_hh, w_x], dim=1) for w_x, (_, w_hh, _, _) in zip(inputs, layers, strict=True)]
