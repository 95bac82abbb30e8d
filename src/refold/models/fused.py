"""One fused LSTM call on any weights, not parameters alone.

Legend: B windows, T bars, I inputs, H hidden size, L layers.
"""

import torch
from torch import Tensor

State = tuple[Tensor, Tensor]  # (h, c), each (L, B, H)
Layer = list[Tensor]  # weight_ih (4 H, I), weight_hh (4 H, H), bias_ih (4 H,), bias_hh (4 H,); rows in order i, f, g, o


def fused_lstm(inputs: Tensor, state: State, layers: list[Layer], dropout: float) -> tuple[Tensor, State]:
    """What nn.LSTM calls: (B, T, I) from a first state -> hidden (B, T, H) and the last state.

    dropout: probability of dropping a number between two layers, with and without gradient; 0 in evaluation.
    """
    weights = [weight for layer in layers for weight in layer]
    if inputs.is_cuda:
        weights = in_one_piece(weights)
    # Not the module's mode: cuDNN has no backward for a call made with train=False, and with it nothing is dropped.
    train = torch.is_grad_enabled() or dropout > 0
    hidden, h, c = torch.lstm(inputs, state, weights, True, len(layers), dropout, train, False, True)
    return hidden, (h, c)


def in_one_piece(weights: list[Tensor]) -> list[Tensor]:
    """The same weights as views of one tensor, matrices before biases: cuDNN would else copy them, with a warning."""
    order = sorted(range(len(weights)), key=lambda n: weights[n].ndim == 1)  # sorted keeps the order of equals
    pieces = torch.cat([weights[n].flatten() for n in order]).split([weights[n].numel() for n in order])
    views = {n: piece.view(weights[n].shape) for n, piece in zip(order, pieces, strict=True)}
    return [views[n] for n in range(len(weights))]
