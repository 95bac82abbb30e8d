"""A small convolutional head that names the error of each bar of a window.

Letters: B windows, T bars, F features of one asset, Z latent size, K kinds of errors.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_CODE_CHANNELS = 16
_COMBINATIONS = 32
_FURTHEST = 30.0  # training standard deviations; a larger one would drown what the others of a combination say
_CLIP = 1.0  # norm of a gradient
_LEAST_STEP = 1e-3  # a smaller change from one bar to the next is none: values that come again stand out
_LEAST_USUAL = 1e-3  # smallest error that others are compared with, in training standard deviations


class Examples(NamedTuple):
    """Windows of one asset with planted errors.

    Attributes:
        windows: (n, T, F), scaled; 0 at absent bars.
        reconstruction: (n, T, F), scaled.
        codes: (n, Z).
        labels: (n, T) int64, 0 for a sound bar, k for the k-th kind from 1, -1 for a bar that does not count.
        blame: (n, T, F), shares of the features in what is wrong with a bar, with the sum 1; 0 where nothing is known.
    """

    windows: Tensor
    reconstruction: Tensor
    codes: Tensor
    labels: Tensor
    blame: Tensor


class Head(nn.Module):
    """Two convolutions over features, their combinations, errors and code of a window's bars.

    Combinations are sums of a bar's features with learned weights, taken before anything is compressed: how far a high
    stands above the close is a difference of two features, which cannot be had from their logarithms.

    Args:
        num_features: F.
        code_size: Z.
        kinds: K.
        channels: of the convolutions.
        width: bars that a convolution reads, odd.
        causal: True reads the bar and those before it alone; False as many after it as before.
    """

    def __init__(
        self, *, num_features: int, code_size: int, kinds: int, channels: int, width: int, causal: bool
    ) -> None:
        super().__init__()
        self.kinds = kinds
        self.before, self.after = (width - 1, 0) if causal else (width // 2, width // 2)
        self.combine = nn.Linear(num_features, _COMBINATIONS)
        self.code = nn.Linear(code_size, _CODE_CHANNELS)
        inputs = 4 * num_features + _COMBINATIONS + 2 + _CODE_CHANNELS
        self.first = nn.Conv1d(inputs, channels, width)
        self.second = nn.Conv1d(channels, channels, width)
        self.out = nn.Conv1d(channels, kinds + num_features, 1)
        assert self.out.bias is not None
        with torch.no_grad():
            self.out.weight.zero_()
            self.out.bias.zero_()
            self.out.bias[:kinds] = -4.0  # errors are rare

    def forward(self, windows: Tensor, reconstruction: Tensor, codes: Tensor) -> Tensor:
        """Judge each bar.

        Args:
            windows: (B, T, F), 0 at absent bars.
            reconstruction: (B, T, F).
            codes: (B, Z).

        Returns:
            (B, T, K + F): log-odds of each kind against a sound bar, then unnormalised log shares of the features.
        """
        T = windows.shape[1]
        present = (windows != 0).any(dim=2, keepdim=True)
        error = (windows - reconstruction) * present
        usual = error.abs().mean(dim=2, keepdim=True).median(dim=1, keepdim=True).values + _LEAST_USUAL
        step = functional.pad(windows.diff(dim=1).abs(), (0, 0, 1, 0), value=1.0)
        combined = self.combine(windows.clamp(-_FURTHEST, _FURTHEST))
        combined = combined.sign() * combined.abs().log1p()
        parts = [_asinh(windows), combined, _asinh(error), _asinh(error / usual), (step + _LEAST_STEP).log()]
        bars = torch.cat([*parts, present.to(windows.dtype)], dim=2)  # (B, T, M), then what is alike at all bars
        alike = torch.cat([usual.log().squeeze(1), self.code(_asinh(codes))], dim=1)
        M, around = bars.shape[2], (0, 0, self.before, self.after)
        bars = _convolve(self.first.weight[:, :M], self.first.bias, functional.pad(bars, around))
        bars = functional.gelu(bars + self._convolve_alike(self.first.weight[:, M:], alike, T))
        bars = functional.gelu(_convolve(self.second.weight, self.second.bias, functional.pad(bars, around)))
        return functional.linear(bars, self.out.weight.squeeze(2), self.out.bias)

    def _convolve_alike(self, weight: Tensor, alike: Tensor, T: int) -> Tensor:
        """Convolve channels (B, C) that are alike at all T bars of a window, and 0 around it: (B, T, channels)."""
        taps = torch.einsum("bc,ock->bko", alike, weight)
        place = torch.arange(T, device=alike.device).unsqueeze(1) + torch.arange(weight.shape[2], device=alike.device)
        inside = ((place >= self.before) & (place < self.before + T)).to(alike.dtype)  # (T, width)
        return inside @ taps


def _convolve(weight: Tensor, bias: Tensor | None, bars: Tensor) -> Tensor:
    """Convolve over the bars of windows (B, T, C) without moving the channels: (B, T - width + 1, channels).

    Bars with their channels side by side are an image of height 1 in the layout that the CPU convolves fastest: a third
    of the time of a Conv1d, which wants the bars side by side.
    """
    image = bars.transpose(1, 2).unsqueeze(2)  # (B, T, C) -> (B, C, 1, T), the same memory
    weight = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    return functional.conv2d(image, weight, bias).squeeze(2).transpose(1, 2)


def _asinh(values: Tensor) -> Tensor:
    """Compute asinh of inputs, which need no gradient, in a sixth of the time of torch.asinh."""
    size = values.abs().clamp(max=1e18)  # its square is finite
    return torch.copysign((size + (size.square() + 1).sqrt()).log(), values)


def train_head(
    head: Head, examples: Examples, *, steps: int, batch_size: int, lr: float, last_bars: int | None, seed: int
) -> None:
    """Train a head on windows with planted errors; it ends in evaluation mode.

    Args:
        head: with fresh weights.
        examples: n windows.
        steps: of AdamW, at least 2, with one cycle of the learning rate.
        batch_size: windows per step.
        lr: highest learning rate.
        last_bars: bars at the end of a window that count; None counts all.
        seed: of the order of the windows.
    """
    labels = examples.labels
    if last_bars is not None:
        labels = labels.clone()
        labels[:, :-last_bars] = -1
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=0.01)
    warm_up = max(0.1, 1.5 / steps)  # of fewer steps torch makes a phase of no length, and divides by it
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=warm_up)
    head.train()
    for _ in range(steps):
        chosen = torch.randint(len(labels), (batch_size,), generator=generator)
        made = head(examples.windows[chosen], examples.reconstruction[chosen], examples.codes[chosen])
        odds, shares = made.split([head.kinds, made.shape[2] - head.kinds], dim=2)
        logits = functional.pad(odds, (1, 0))  # a sound bar has log-odds 0
        loss = functional.cross_entropy(logits.transpose(1, 2), labels[chosen], ignore_index=-1, reduction="sum")
        blame = examples.blame[chosen] * (labels[chosen] > 0).unsqueeze(2)
        loss = loss - 0.1 * (blame * shares.log_softmax(dim=2)).sum()
        optimizer.zero_grad()
        (loss / (labels[chosen] >= 0).sum().clamp(min=1)).backward()
        nn.utils.clip_grad_norm_(head.parameters(), _CLIP)
        optimizer.step()
        schedule.step()
    head.eval()
    head.requires_grad_(False)


def calibrate(odds: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Fit one temperature and a shift for each kind, so that probabilities are shares of bars (vector scaling).

    Args:
        odds: (N, K) float64, log-odds of each kind against a sound bar.
        labels: (N,) int64, as in `Examples`.

    Returns:
        Factor of the odds (), above 0, and their shift (K,), float64. A kind without a bar keeps its shift of 0.

    Source: Guo et al. 2017, section 4.2.
    """
    counts = labels >= 0
    odds, labels = odds[counts].double(), labels[counts]
    log_factor, shift = torch.zeros((), dtype=torch.float64), torch.zeros(odds.shape[1], dtype=torch.float64)
    seen = torch.bincount(labels, minlength=odds.shape[1] + 1)[1:] > 0
    parameters = [log_factor.requires_grad_(), shift.requires_grad_()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        scaled = odds * log_factor.exp() + torch.where(seen, shift, 0.0)
        # kinds that are told apart without a mistake would ask for an endless factor
        penalty = 1e-3 * log_factor.square() + 1e-4 * shift.square().sum()
        loss = functional.cross_entropy(functional.pad(scaled, (1, 0)), labels) + penalty
        loss.backward()
        return loss

    optimizer.step(closure)
    return log_factor.detach().exp(), torch.where(seen, shift, 0.0).detach()


def joined(examples: Sequence[Examples]) -> Examples:
    """Put examples one after another."""
    return Examples(*(torch.cat(part) for part in zip(*examples, strict=True)))
