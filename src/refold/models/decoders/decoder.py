"""The base class of decoders: sizes, an LSTM, one projection, checks, and the order of time."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from refold.models.closed_loop import FREE, Feeding, check_feeding
from refold.models.decoders.boundary import State, check_inputs, to_decoding_order, to_time_order


class Decoder(nn.Module, ABC):
    """An LSTM and one linear projection shared by all steps. A subclass defines the LSTM's inputs in `unroll`.

    Args:
        input_size: numbers that the LSTM reads at a step.
        output_size: F.
        conditioning_size: C.
        hidden_size: H.
        num_layers: L.
        dropout: probability of dropping a number between two layers while training, in [0, 1).
        reverse: True decodes from the last present bar to the first.
    """

    fed_bars = True
    """True if the LSTM reads bars, true ones or its own: teacher forcing then makes a difference."""

    start_token: Tensor

    def __init__(
        self,
        *,
        input_size: int,
        output_size: int,
        conditioning_size: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
        reverse: bool,
    ) -> None:
        super().__init__()
        self.num_layers, self.hidden_size = num_layers, hidden_size
        self.sizes = num_layers, hidden_size, conditioning_size, output_size
        self.reverse = reverse
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, batch_first=True, dropout=dropout)
        self.projection = nn.Linear(hidden_size, output_size)

    def forward(
        self,
        conditioning: Tensor,
        state: State,
        *,
        window_size: int,
        truth: Tensor | None,
        feeding: Feeding | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Decode T bars.

        Args:
            conditioning: (B, C), from the bridge.
            state: first (h, c), each (L, B, H), from the bridge.
            window_size: T, at least 1.
            truth: (B, T, F), needed only where coins may pick it.
            feeding: the steps that are fed the truth; None runs free.
            mask: (B, T) bool, True at bars to write; None writes all.

        Returns:
            (B, T, F) in the order of time, finite but without meaning at absent bars.

        Raises:
            ValueError: an argument does not fit (`check_inputs`, `check_feeding`).
        """
        check_inputs(
            conditioning=conditioning, state=state, window_size=window_size, truth=truth, mask=mask, sizes=self.sizes
        )
        feeding = feeding or FREE
        check_feeding(feeding, truth, conditioning.shape[0], window_size)
        truth = to_decoding_order(truth, mask, self.reverse)
        # no absent bar stands before a present one from here on, so `unroll` needs no mask
        return to_time_order(self.unroll(conditioning, state, window_size, truth, feeding), mask, self.reverse)

    @abstractmethod
    def unroll(
        self, conditioning: Tensor, state: State, window_size: int, truth: Tensor | None, feeding: Feeding
    ) -> Tensor:
        """Decode T bars in the order of decoding.

        Args:
            conditioning: (B, C).
            state: first (h, c), each (L, B, H).
            window_size: T.
            truth: (B, T, F) in the order of decoding; None without coins.
            feeding: the steps that are fed the truth; checked.

        Returns:
            (B, T, F) in the order of decoding.
        """

    def add_start_token(self, kind: str) -> None:
        """Add the input of step 0 as `start_token`, (F,), zeros at first.

        Args:
            kind: "learned" makes it a parameter, "zeros" a buffer that stays 0.
        """
        token = torch.zeros(self.projection.out_features)
        if kind == "learned":
            self.start_token = nn.Parameter(token)
        else:
            self.register_buffer("start_token", token)
