"""The slow plain twins: what the models compute, one window and one step at a time. The fast paths are held to this.

Legend: B windows, T bars, F features, H hidden size, Z conditioning size, L layers.
"""

import torch
from torch import Tensor, nn

from refold.models import AutoregressiveDecoder, Feeding, RepeatDecoder

State = tuple[Tensor, Tensor]
FREE = Feeding(coins=None, detach_feedback=False, parallel_passes=0)


def encode(lstm: nn.LSTM, windows: Tensor, mask: Tensor) -> State:
    """State (h, c), each (L, B, H or 2 H), of each window's present bars, read alone."""
    states = [lstm(window[present].unsqueeze(0))[1] for window, present in zip(windows, mask, strict=True)]
    h, c = (torch.cat(part, dim=1) for part in zip(*states, strict=True))
    if lstm.bidirectional:  # nn.LSTM stacks forward and backward of layer 0, then of layer 1, ...
        h, c = (torch.stack([torch.cat([s[n], s[n + 1]], dim=1) for n in range(0, len(s), 2)]) for s in (h, c))
    return h, c


def decode_loop(
    decoder: nn.Module,
    conditioning: Tensor,
    state: State,
    window_size: int,
    truth: Tensor | None = None,
    feeding: Feeding = FREE,
) -> Tensor:
    """The usual loop, in order of decoding: per step one nn.LSTM call of length 1 and one projection -> (B, T, F)."""
    B, with_feedback = conditioning.shape[0], not isinstance(decoder, RepeatDecoder)
    with_conditioning = not isinstance(decoder, AutoregressiveDecoder)
    coins = None if feeding.coins is None else feeding.coins.expand(B, window_size).to(conditioning.device).unsqueeze(2)
    outputs: list[Tensor] = []
    for t in range(window_size):
        parts = []
        if with_feedback and t == 0:
            parts.append(decoder.start_token.expand(B, -1))
        elif with_feedback:
            own = outputs[-1].detach() if feeding.detach_feedback else outputs[-1]
            parts.append(own if coins is None else torch.where(coins[:, t], truth[:, t - 1], own))
        if with_conditioning:
            parts.append(conditioning)
        hidden, state = decoder.lstm(torch.cat(parts, dim=1).unsqueeze(1), state)
        outputs.append(decoder.projection(hidden.squeeze(1)))
    return torch.stack(outputs, dim=1)  # T x (B, F) -> (B, T, F)


def decode(
    decoder: nn.Module,
    conditioning: Tensor,
    state: State,
    window_size: int,
    truth: Tensor | None = None,
    feeding: Feeding = FREE,
    mask: Tensor | None = None,
) -> Tensor:
    """Each window alone, as the window of its present bars; zeros at absent bars -> (B, T, F), in order of time."""
    coins = None if feeding.coins is None else feeding.coins.expand(conditioning.shape[0], window_size)
    windows = []
    for b in range(conditioning.shape[0]):
        bars = torch.arange(window_size) if mask is None else mask[b].nonzero().squeeze(1)
        if decoder.reverse:
            bars = bars.flip(0)
        alone = feeding._replace(coins=None if coins is None else coins[b : b + 1, : len(bars)])
        own_truth = None if truth is None else truth[b : b + 1, bars]
        own_state = tuple(part[:, b : b + 1] for part in state)
        outputs = decode_loop(decoder, conditioning[b : b + 1], own_state, len(bars), own_truth, alone)
        windows.append(outputs.new_zeros(window_size, outputs.shape[2]).index_copy(0, bars, outputs[0]))
    return torch.stack(windows)
