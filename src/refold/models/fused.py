"""One fused LSTM call on any weights, not parameters alone. Letters as in `refold.models`; I numbers read at a step."""

from collections.abc import Sequence

import torch
from torch import Tensor

State = tuple[Tensor, Tensor]  # (h, c), each (L, B, H)
Layer = Sequence[Tensor]
"""weight_ih (4 H, I), weight_hh (4 H, H), bias_ih (4 H,), bias_hh (4 H,); rows in the order i, f, g, o."""


def fused_lstm(inputs: Tensor, state: State, layers: Sequence[Layer], dropout: float) -> tuple[Tensor, State]:
    """Run a stacked LSTM over all steps in one call, as nn.LSTM does with its own parameters.

    Args:
        inputs: (B, T, I).
        state: first (h, c), each (L, B, H).
        layers: weights of the L layers.
        dropout: probability of dropping a number between two layers, with and without gradient; 0 in evaluation.

    Returns:
        Hidden states of the top layer (B, T, H), and the last (h, c), each (L, B, H).
    """
    weights = [weight for layer in layers for weight in layer]
    if inputs.is_cuda:
        weights = in_one_piece(weights)
    # Not the module's mode: cuDNN has no backward for a call made with train=False, and with it nothing is dropped.
    train = torch.is_grad_enabled() or dropout > 0
    hidden, h, c = torch.lstm(inputs, state, weights, True, len(layers), dropout, train, False, True)
    return hidden, (h, c)


def in_one_piece(weights: list[Tensor]) -> list[Tensor]:
    """Copy weights into one tensor, matrices before biases, and return views of it in the order given.

    cuDNN would otherwise copy them itself, with a warning.

    Args:
        weights: weights of any shapes, all on one device and of one type.

    Returns:
        Tensors of the same shapes and values.
    """
    order = sorted(range(len(weights)), key=lambda n: weights[n].ndim == 1)  # sorted keeps the order of equals
    pieces = torch.cat([weights[n].flatten() for n in order]).split([weights[n].numel() for n in order])
    views = {n: piece.view(weights[n].shape) for n, piece in zip(order, pieces, strict=True)}
    return [views[n] for n in range(len(weights))]
