"""A trained run as one file that needs no refold: ONNX, or a program of `torch.export`.

Letters: B windows, T bars, F features, Z numbers of a code, H hidden size, L layers, K assets of a panel.

    features (B, T, F) -> reconstruction (B, T, F), code (B, Z), score (B, T), or (B, T, K) of a panel

B and T stay free. Features go in and come out in their own units: scaler and score stand in the graph.

**LSTMs.** Traced as it is, an LSTM is unrolled into as many steps as the example has bars. Here it is one opaque
operator with a rule for its shapes; an ONNX file then gets the standard LSTM operator in its place, a program of
`torch.export` gets `aten.lstm`, which any PyTorch runs.

**The closed loop.** With one layer the decoder that reads its own output is folded into one LSTM (closed_loop.py), its
folded weights are stored. With more layers it is a loop over bars: `Scan` in ONNX, `scan` in a program.
"""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from refold.data import Scaler
from refold.models import Autoencoder, AutoregressiveDecoder, ConditionalDecoder, Feeding
from refold.models.closed_loop import fold, weights_of
from refold.models.fused import State

OUTPUTS = ("reconstruction", "code", "score")


# ---- LSTMs that keep their shape when they are traced -----------------------------------------------------------------


@torch.library.custom_op("refold::lstm", mutates_args=())
def _lstm(
    input: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.lstm`, argument by argument, so that one can stand in the other's place."""
    return torch.lstm(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


@_lstm.register_fake
def _(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):  # noqa: ANN001, ANN202
    width = hx[0].shape[2] * (2 if bidirectional else 1)
    hidden = input.new_empty(input.shape[0], input.shape[1], width)
    return hidden, torch.empty_like(hx[0]), torch.empty_like(hx[1])


class _LSTM(nn.Module):
    """An nn.LSTM as the opaque operator; called like it."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.input_size, self.hidden_size = lstm.input_size, lstm.hidden_size
        self.num_layers, self.bidirectional = lstm.num_layers, lstm.bidirectional
        self.weights = nn.ParameterList(weight.detach() for layer in lstm.all_weights for weight in layer)

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        if state is None:
            rows = self.num_layers * (2 if self.bidirectional else 1)
            zeros = inputs.new_zeros(rows, inputs.shape[0], self.hidden_size)
            state = zeros, zeros.clone()
        how = True, self.num_layers, 0.0, False, self.bidirectional, True
        hidden, h, c = _lstm(inputs, list(state), list(self.weights), *how)
        return hidden, (h, c)


class _Folded(nn.Module):
    """A one-layer decoder that reads its own output, as one LSTM; called like the decoder, runs free."""

    def __init__(self, decoder: AutoregressiveDecoder | ConditionalDecoder) -> None:
        super().__init__()
        self.reverse, self.conditioned = decoder.reverse, isinstance(decoder, ConditionalDecoder)
        self.lstm = _LSTM(decoder.lstm)
        self.lstm.weights = nn.ParameterList(part.detach() for part in fold(weights_of(decoder.lstm, decoder.projection)))
        self.projection = decoder.projection
        self.start_token = nn.Parameter(decoder.start_token.detach().clone())

    def forward(self, conditioning: Tensor, state: State, *, window_size: int, **_: Any) -> Tensor:
        first = self.start_token - self.projection(state[0][-1])  # the fold adds what the first step would feed back
        inputs = nn.functional.pad(first.unsqueeze(1), (0, 0, 0, window_size - 1))
        if self.conditioned:
            beside = conditioning.unsqueeze(1).expand(-1, window_size, -1)
            inputs = torch.cat([inputs, beside], dim=2)
        hidden, _state = self.lstm(inputs, state)
        outputs = self.projection(hidden)
        return outputs.flip(1) if self.reverse else outputs


class _Stepped(nn.Module):
    """A decoder of several layers that reads its own output, as a loop over bars; called like it, runs free."""

    def __init__(self, decoder: AutoregressiveDecoder | ConditionalDecoder) -> None:
        super().__init__()
        self.reverse, self.conditioned = decoder.reverse, isinstance(decoder, ConditionalDecoder)
        self.layers = nn.ModuleList(nn.ParameterList(part.detach() for part in layer) for layer in decoder.lstm.all_weights)
        self.projection = decoder.projection
        self.start_token = nn.Parameter(decoder.start_token.detach().clone())

    def forward(self, conditioning: Tensor, state: State, *, window_size: int, **_: Any) -> Tensor:
        from torch._higher_order_ops.scan import scan  # torch has no public name for it yet

        def step(carry: tuple[Tensor, ...], clock: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            fed, *states = carry
            hidden = torch.cat([fed, conditioning], dim=1) if self.conditioned else fed
            after = []
            for n, (w_ih, w_hh, b_ih, b_hh) in enumerate(self.layers):
                h, c = states[2 * n : 2 * n + 2]
                gates = nn.functional.linear(hidden, w_ih, b_ih) + nn.functional.linear(h, w_hh, b_hh)
                i, f, g, o = gates.chunk(4, dim=1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                hidden = o.sigmoid() * c.tanh()
                after += [hidden, c]
            output = self.projection(hidden)
            return (output, *after), output.clone()

        start = self.start_token.expand(conditioning.shape[0], -1).clone()
        states = [part[n].clone() for n in range(len(self.layers)) for part in state]
        clock = conditioning.new_zeros(window_size, 1)  # a scan is as long as what it reads
        _carry, outputs = scan(step, (start, *states), clock)
        outputs = outputs.transpose(0, 1)  # (T, B, F) -> (B, T, F)
        return outputs.flip(1) if self.reverse else outputs


def portable(autoencoder: Autoencoder) -> Autoencoder:
    """A copy that can be traced with any number of bars, and that always runs free."""
    copy = deepcopy(autoencoder).eval()
    copy.encoder.lstm = _LSTM(copy.encoder.lstm)
    if isinstance(copy.decoder, AutoregressiveDecoder | ConditionalDecoder):
        copy.decoder = (_Folded if copy.decoder.num_layers == 1 else _Stepped)(copy.decoder)
    else:
        copy.decoder.lstm = _LSTM(copy.decoder.lstm)
    return copy
