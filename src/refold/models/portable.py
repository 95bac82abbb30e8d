"""Turn an autoencoder into a form that can be traced with any number of windows and bars, for export, or one that is
fast for a single window, for live bars.

**LSTMs.** Tracing unrolls an LSTM into as many steps as the example has bars. Here an LSTM is one opaque operator with
a rule for its shapes; the writer of a format replaces it by the LSTM of that format.

**The closed loop.** With one layer the decoder that reads its own output is folded into one LSTM (closed_loop.py), and
the folded weights are stored. With more layers it is a loop over bars, `scan`. Letters as in `refold.models`.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from refold.models.autoencoder import Autoencoder
from refold.models.closed_loop import fold, weights_of
from refold.models.decoders import AutoregressiveDecoder, ConditionalDecoder, RepeatDecoder
from refold.models.encoder import LSTMEncoder
from refold.models.fused import State
from refold.models.linear import LinearPath


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
    """Call `torch.lstm` with the same arguments in the same order."""
    return torch.lstm(input, list(hx), list(params), has_biases, num_layers, dropout, train, bidirectional, batch_first)


@_lstm.register_fake
def _(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):
    width = hx[0].shape[2] * (2 if bidirectional else 1)
    hidden = input.new_empty(input.shape[0], input.shape[1], width)
    return hidden, torch.empty_like(hx[0]), torch.empty_like(hx[1])


OPERATOR = torch.ops.refold.lstm.default
"""The LSTM in a traced graph: same arguments and results as `aten.lstm.input`."""


class _OneCall(nn.Module):
    """An nn.LSTM as one call of an operator, without its checks; same call.

    Args:
        lstm: its sizes are taken.
        weights: in the order of `lstm.all_weights`; None takes its own.
    """

    def __init__(self, lstm: nn.LSTM, weights: Iterable[Tensor] | None = None) -> None:
        super().__init__()
        self.input_size, self.hidden_size = lstm.input_size, lstm.hidden_size
        self.num_layers, self.bidirectional = lstm.num_layers, lstm.bidirectional
        self.rows = lstm.num_layers * (2 if lstm.bidirectional else 1)
        self.how = True, self.num_layers, 0.0, False, self.bidirectional, True
        self.hold([weight for layer in lstm.all_weights for weight in layer] if weights is None else weights)

    def hold(self, weights: Iterable[Tensor]) -> None:
        """Keep the weights as the operator takes them."""
        raise NotImplementedError


class _LSTM(_OneCall):
    """An nn.LSTM as the opaque operator; same call."""

    def hold(self, weights: Iterable[Tensor]) -> None:
        self.weights = _detached(weights)

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        if state is None:
            zeros = inputs.new_zeros(self.rows, inputs.shape[0], self.hidden_size)
            state = zeros, zeros.clone()
        hidden, h, c = _lstm(inputs, list(state), list(self.weights), *self.how)
        return hidden, (h, c)


class _Folded(nn.Module):
    """A one-layer decoder that reads its own output, as one LSTM; same call as the decoder, always free running.

    Args:
        decoder: of one layer.
        lstm: with the folded weights.
    """

    def __init__(self, decoder: AutoregressiveDecoder | ConditionalDecoder, lstm: nn.Module) -> None:
        super().__init__()
        self.reverse, self.conditioned = decoder.reverse, isinstance(decoder, ConditionalDecoder)
        self.lstm = lstm
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
    """A decoder of several layers that reads its own output, as a loop over bars; same call, always free running."""

    def __init__(self, decoder: AutoregressiveDecoder | ConditionalDecoder) -> None:
        super().__init__()
        self.reverse, self.conditioned = decoder.reverse, isinstance(decoder, ConditionalDecoder)
        self.layers = nn.ModuleList(_detached(layer) for layer in decoder.lstm.all_weights)
        self.projection = decoder.projection
        self.start_token = nn.Parameter(decoder.start_token.detach().clone())

    def forward(self, conditioning: Tensor, state: State, *, window_size: int, **_: Any) -> Tensor:
        from torch._higher_order_ops.scan import scan  # torch has no public name for it yet

        def step(carry: tuple[Tensor, ...], clock: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            fed, *states = carry
            hidden = torch.cat([fed, conditioning], dim=1) if self.conditioned else fed
            after = []
            for n, layer in enumerate(self.layers):
                w_ih, w_hh, b_ih, b_hh = cast(nn.ParameterList, layer)
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


class _LinearPath(nn.Module):
    """A linear path bar by bar, the last bar first.

    It takes as many weights as there are bars instead of padding windows, because padding or not would be a branch.
    """

    def __init__(self, path: LinearPath) -> None:
        super().__init__()
        sizes = path.window_size, path.num_features
        to_code, to_window = path.to_code.weight.detach().T, path.to_window.weight.detach()  # (T F, Z) both
        self.into = nn.Parameter(to_code.unflatten(0, sizes).flip(0))  # (T, F, Z)
        self.out = nn.Parameter(to_window.unflatten(0, sizes).transpose(1, 2).flip(0).contiguous())  # (T, Z, F)
        self.into_bias = nn.Parameter(path.to_code.bias.detach())
        self.out_bias = nn.Parameter(path.to_window.bias.detach().unflatten(0, sizes).unsqueeze(1).flip(0))  # (T, 1, F)

    def encode(self, windows: Tensor, mask: None) -> Tensor:
        bars = windows.flip(1).transpose(0, 1)  # (B, T, F) -> (T, B, F)
        return torch.bmm(bars, self.into[: windows.shape[1]]).sum(0) + self.into_bias

    def decode(self, code: Tensor, window_size: int) -> Tensor:
        bars = torch.matmul(code, self.out[:window_size]) + self.out_bias[:window_size]  # (T, B, F)
        return bars.transpose(0, 1).flip(1)


def portable(autoencoder: Autoencoder) -> Autoencoder:
    """Copy an autoencoder into a form that can be traced with any number of bars, and that always runs free.

    Args:
        autoencoder: its encoder and decoder hold their nn.LSTM as `lstm`.

    Returns:
        The copy, in evaluation mode, with the same calls.
    """
    clone = copy.deepcopy(autoencoder).eval()
    _replace_lstm(clone.encoder)
    if clone.linear is not None:
        clone.add_module("linear", _LinearPath(clone.linear))
    clone.decoder = _portable_decoder(clone.decoder)
    if clone.predictor is not None:
        clone.predictor = _portable_decoder(clone.predictor)
    return clone


class _Fused(_OneCall):
    """An nn.LSTM on weights that stay as they are, in one call without its checks; same call."""

    def hold(self, weights: Iterable[Tensor]) -> None:
        self.weights = [weight.detach().clone() for weight in weights]

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        if state is None:
            zeros = inputs.new_zeros(self.rows, inputs.shape[0], self.hidden_size)
            state = zeros, zeros
        hidden, h, c = torch.lstm(inputs, state, self.weights, *self.how)
        return hidden, (h, c)


def frozen(autoencoder: Autoencoder) -> Autoencoder:
    """Copy an autoencoder into a form that takes a single window at once, for weights that change no more.

    What a call on one window spends most of its time with is left out: the checks of nn.LSTM, and the fold of a
    decoder that reads its own output, which is computed here.

    Args:
        autoencoder: on the CPU.

    Returns:
        The copy, in evaluation mode, which runs free over windows without absent bars: `encode(windows)` and
        `decode(code, window_size)`. An autoencoder with an encoder or decoder of a user's is returned as it is.
    """
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    folds = type(decoder) in (AutoregressiveDecoder, ConditionalDecoder) and decoder.num_layers == 1
    if type(encoder) is not LSTMEncoder or not (folds or type(decoder) is RepeatDecoder):
        return autoencoder
    clone = copy.deepcopy(autoencoder).eval()
    encoder, decoder = cast(LSTMEncoder, clone.encoder), cast(AutoregressiveDecoder, clone.decoder)
    if folds:
        clone.decoder = _Folded(decoder, _Fused(decoder.lstm, fold(weights_of(decoder.lstm, decoder.projection))))
    for part in (encoder, decoder):
        part.add_module("lstm", _Fused(part.lstm))
    return clone


def _portable_decoder(decoder: nn.Module) -> nn.Module:
    """Return a decoder that can be traced; that of a decoder that reads no bars is itself, changed in place."""
    if isinstance(decoder, AutoregressiveDecoder | ConditionalDecoder):
        if decoder.num_layers > 1:
            return _Stepped(decoder)
        return _Folded(decoder, _LSTM(decoder.lstm, fold(weights_of(decoder.lstm, decoder.projection))))
    _replace_lstm(decoder)
    return decoder


def _replace_lstm(part: nn.Module) -> None:
    """Replace the LSTM of an encoder or decoder by the opaque operator."""
    part.add_module("lstm", _LSTM(cast(nn.LSTM, part.get_submodule("lstm"))))


def _detached(weights: Iterable[Tensor]) -> nn.ParameterList:
    """Hold weights as parameters apart from the graph that they were computed in."""
    return nn.ParameterList(weight.detach() for weight in weights)
