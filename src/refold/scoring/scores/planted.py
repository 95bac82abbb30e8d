"""The probability that a bar is one of the errors that feeds are known for, learned from errors that are planted.

Letters: B windows, T bars, F features of one asset, A assets of a panel (1 otherwise), K kinds of errors, N bars.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from refold.bounds import at_least, checked, more_than, within
from refold.data.planted import errors_to_learn
from refold.errors import ConfigError
from refold.scoring.scores.base_score import NamedBars, Score
from refold.scoring.scores.head import Examples, Head, calibrate, train_head

_OF_PART = {"train": 7919, "val": 104729, "rules": 15485863}
"""Part of a copy -> second number of the seed of its errors."""


class PlantedErrors(Score):
    """Score a bar by the log-odds that it is an error, and name the kind, with a head beside a frozen autoencoder.

    The head learns from copies of the training part with planted errors, and its probabilities are calibrated on copies
    of validation. It never sees the test part, and draws from generators of its own. Per bar it has K log-odds against
    a sound bar and F log shares of the features in what is wrong; they are aligned like errors.

    Args:
        kinds: key -> kind; None leaves one out. Those that are no errors are left alone by the head.
        per_thousand: episodes of each kind per 1,000 bars of a copy, above 0.
        expected_share: share of bars that are expected to be errors, in (0, 1); a probability depends on it.
        copies: of the training part; for the calibration a quarter as many of validation.
        windows: of all copies together, over all assets.
        steps: of the head's training, at least 2.
        batch_size: windows of one asset per step.
        lr: highest learning rate.
        channels: of the head's convolutions.
        width: bars that a convolution reads, an odd number; two of them see 2 width - 1.
        seed: of errors and weights.

    Raises:
        ValueError: there is no kind that is an error, two have one name, or the width is even.
    """

    question = "named"
    reads_planted = True

    @checked("score")
    def __init__(
        self,
        *,
        kinds: Mapping[str, Any],
        per_thousand: Annotated[float, more_than(0)],
        expected_share: Annotated[float, within(0, 1, open_start=True, open_end=True)],
        copies: Annotated[int, at_least(1)],
        windows: Annotated[int, at_least(1)],
        steps: Annotated[int, at_least(2)],
        batch_size: Annotated[int, at_least(1)],
        lr: Annotated[float, more_than(0)],
        channels: Annotated[int, at_least(1)],
        width: Annotated[int, at_least(1)],
        seed: Annotated[int, at_least(0)],
    ) -> None:
        self.planted = errors_to_learn(kinds, "score", "score")
        names = [kind.name for kind in self.planted]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"score.kinds has two kinds with the name {twice!r}; names must differ")
        if width % 2 == 0:
            raise ValueError(f"score.width is {width}; it must be odd")
        self.per_thousand = per_thousand
        self.expected_share = expected_share
        self.copies = copies
        self.windows = windows
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.channels = channels
        self.width = width
        self.seed = seed
        self.names: tuple[str, ...] = ()
        self.head: Head | None = None

    def value_columns(self, num_columns: int, num_features: int) -> int:
        """Return the values of a row: K + F of each asset."""
        return (len(self.names) + num_features) * (num_columns // num_features)

    def generator(self, part: str, copy: int) -> np.random.Generator:
        """Return the generator of one copy's errors; an evaluation seeds its own with one number.

        Args:
            part: "train", "val", or "rules" for the copies that rules beside the head are weighed on.
            copy: its number.
        """
        return np.random.default_rng([self.seed, _OF_PART[part], copy])

    def fit_examples(self, examples: Examples, names: Sequence[str], *, causal: bool) -> None:
        """Train the head.

        Args:
            examples: windows of copies of the training part; labels number the names.
            names: of the kinds that are errors and could be planted.
            causal: whether nothing after a bar may count.
        """
        self.names = tuple(names)
        sizes = {"num_features": examples.windows.shape[2], "code_size": examples.codes.shape[1]}
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(self.seed)
            self.head = Head(**sizes, kinds=len(names), channels=self.channels, width=self.width, causal=causal)
            last_bars = max(1, examples.windows.shape[1] // 4) if causal else None
            settings = {"steps": self.steps, "batch_size": self.batch_size, "lr": self.lr, "seed": self.seed}
            train_head(self.head, examples, last_bars=last_bars, **settings)
        self.factor, self.shift = torch.ones((), dtype=torch.float64), torch.zeros(len(names), dtype=torch.float64)
        self.prior = torch.zeros((), dtype=torch.float64)

    def fit_probabilities(self, values: Tensor, labels: np.ndarray) -> None:
        """Calibrate the probabilities.

        Args:
            values: (N, K + F), aligned, of copies of validation.
            labels: (N,) int64, as in `Examples`.
        """
        known = torch.from_numpy(np.where(values.isnan().any(dim=1).numpy(), -1, labels))
        with torch.inference_mode(False), torch.enable_grad():
            self.factor, self.shift = calibrate(values[:, : len(self.names)].clone(), known)
        planted = float((known > 0).sum() / (known >= 0).sum().clamp(min=1))
        if 0 < planted < 1:
            self.prior = torch.tensor(_logit(self.expected_share) - _logit(planted), dtype=torch.float64)

    def measure(self, windows: Tensor, reconstruction: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return K log-odds and F log shares of each bar and asset, (B, T, A (K + F)); see `Head.forward`."""
        assert self.head is not None
        B, T, C = windows.shape
        F = self.head.out.out_channels - len(self.names)
        head = self.head.to(windows.device)
        if mask is not None:  # the head reads neighbours, and must not see what the model does not
            absent = ~mask.unsqueeze(2)
            windows, reconstruction = (part.masked_fill(absent, 0.0) for part in (windows, reconstruction))

        def by_asset(values: Tensor) -> Tensor:  # (B, T, A F) -> (B A, T, F)
            return values.float().view(B, T, C // F, F).transpose(1, 2).reshape(-1, T, F)

        codes = codes.float().repeat_interleave(C // F, dim=0)
        with torch.no_grad():
            made = head(by_asset(windows), by_asset(reconstruction), codes)
        return made.view(B, C // F, T, -1).transpose(1, 2).reshape(B, T, -1)

    def odds(self, values: Tensor) -> Tensor:
        """Return the calibrated log-odds (N, K) of each kind against a sound bar, float64.

        Args:
            values: (N, K + F), NaN at absent bars.
        """
        return values[:, : len(self.names)].double() * self.factor + self.shift + self.prior

    def contributions(self, values: Tensor, asset: np.ndarray) -> Tensor:
        score = self.odds(values).logsumexp(dim=1, keepdim=True)
        return score * values[:, len(self.names) :].softmax(dim=1)

    def name_bars(self, values: Tensor) -> NamedBars:
        odds = self.odds(values)
        probability = odds.logsumexp(dim=1).sigmoid().numpy()
        return NamedBars(probability, odds.nan_to_num().argmax(dim=1).numpy(), self.names)

    def state_dict(self) -> dict[str, Tensor]:
        if self.head is None:
            return {}
        kept = torch.tensor([kind.name in self.names for kind in self.planted])
        causal = torch.tensor(self.head.after == 0)
        own = {"kept": kept, "causal": causal, "factor": self.factor, "shift": self.shift, "prior": self.prior}
        return {**own, **{f"head.{name}": value for name, value in self.head.state_dict().items()}}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        weights = {name.removeprefix("head."): value for name, value in state.items() if name.startswith("head.")}
        own = {"kept", "causal", "factor", "shift", "prior"}
        if set(state) - {f"head.{name}" for name in weights} != own or "out.weight" not in weights:
            raise ConfigError(f"the score's state has {sorted(state)}; PlantedErrors has {sorted(own)} and a head")
        if "combine.weight" not in weights:
            raise ConfigError(
                "the run's head is that of an earlier version of refold, which did not combine features: choose "
                "score=planted anew, or train again"
            )
        if len(state["kept"]) != len(self.planted):
            raise ConfigError(
                f"the score's state is of {len(state['kept'])} kinds; score.kinds has {len(self.planted)}"
            )
        if broken := [name for name, value in state.items() if not value.isfinite().all()]:
            raise ValueError(f"its head has numbers that are NaN or infinite, {broken[0]} among them")
        kept = zip(self.planted, state["kept"].tolist(), strict=True)
        self.names = tuple(kind.name for kind, there in kept if there and kind.is_error)
        code_size, outputs = weights["code.weight"].shape[1], weights["out.weight"].shape[0]
        sizes = {"num_features": outputs - len(self.names), "code_size": code_size, "kinds": len(self.names)}
        shape = {"channels": weights["first.weight"].shape[0], "width": weights["first.weight"].shape[2]}
        self.head = Head(**sizes, **shape, causal=bool(state["causal"]))
        self.head.load_state_dict(weights)
        self.head.eval()
        self.head.requires_grad_(False)
        self.factor, self.shift, self.prior = state["factor"], state["shift"], state["prior"]


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
