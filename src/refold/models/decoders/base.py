"""What all decoders share: sizes, an LSTM, one projection, and the way from a code to a window in the order of time."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from refold.models.closed_loop import FREE, Feeding, check_feeding
from refold.models.decoders.boundary import State, check_inputs, to_decoding_order, to_time_order


class Decoder(nn.Module, ABC):
    """An LSTM and one linear projection shared by all steps. A decoder says what its LSTM reads, and how it unrolls.

    Args: input_size: numbers that the LSTM reads at a step. output_size: F. conditioning_size: Z. hidden_size: H.
        num_layers: L. dropout: probability of dropping a number between two layers while training. reverse: decode
        from the last present bar to the first.
    """

    fed_bars = True
    """Whether its LSTM reads bars, the true ones or its own: teacher forcing then makes a difference."""

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

        Args: conditioning: (B, Z). state: first (h, c), each (L, B, H). window_size: T. truth: (B, T, F), needed only
            where coins may pick it. feeding: which steps get the truth; None = run free. mask: (B, T) bool or None.
        Returns: (B, T, F) in the order of time; finite but without meaning at absent bars.
        Raises: ValueError: an argument does not fit (`check_inputs`, `check_feeding`).
        """
        check_inputs(
            conditioning=conditioning, state=state, window_size=window_size, truth=truth, mask=mask, sizes=self.sizes
        )
        feeding = feeding or FREE
        check_feeding(feeding, truth, conditioning.shape[0], window_size)
        truth = to_decoding_order(truth, mask, self.reverse)
        return to_time_order(self.unroll(conditioning, state, window_size, truth, feeding), mask, self.reverse)

    @abstractmethod
    def unroll(
        self, conditioning: Tensor, state: State, window_size: int, truth: Tensor | None, feeding: Feeding
    ) -> Tensor:
        """As `forward`, with checked arguments, in the order of decoding -> (B, T, F)."""

    def keep_start_token(self, kind: str) -> None:
        """Hold the input of step 0, (F,), as `start_token`: zeros, or learned from zeros on."""
        token = torch.zeros(self.projection.out_features)
        if kind == "learned":
            self.start_token = nn.Parameter(token)
        else:
            self.register_buffer("start_token", token)
