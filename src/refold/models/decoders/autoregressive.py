"""The decoder whose input at each step is the bar before it: the true one, or the one that it put out."""

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from refold.bounds import at_least, checked, within
from refold.models.closed_loop import FREE, Feeding, check_feeding, unroll, weights_of
from refold.models.decoders.boundary import check_inputs, to_decoding_order, to_time_order
from refold.models.fused import State


class AutoregressiveDecoder(nn.Module):
    """LSTM whose input at step t is bar t - 1 in the order of decoding, and one linear projection shared by all steps.

    It knows the code through its first state alone.

    Args: output_size: F. conditioning_size: Z, not used here: all decoders are built alike. hidden_size: H.
        num_layers: L. dropout: probability of dropping a number between two layers while training. reverse: decode
        from the last present bar to the first. start_token: input of step 0, zeros or learned.
    """

    @checked("decoder")
    def __init__(
        self,
        *,
        output_size: Annotated[int, at_least(1)],
        conditioning_size: Annotated[int, at_least(1)],
        hidden_size: Annotated[int, at_least(1)],
        num_layers: Annotated[int, at_least(1)],
        dropout: Annotated[float, within(0, 1, open_end=True)],
        reverse: bool,
        start_token: Literal["zeros", "learned"],
    ) -> None:
        super().__init__()
        self.num_layers, self.hidden_size = num_layers, hidden_size
        self.sizes = num_layers, hidden_size, conditioning_size, output_size
        self.reverse = reverse
        self.lstm = nn.LSTM(output_size, hidden_size, num_layers, batch_first=True, dropout=dropout)
        self.projection = nn.Linear(hidden_size, output_size)
        if start_token == "learned":
            self.start_token = nn.Parameter(torch.zeros(output_size))
        else:
            self.register_buffer("start_token", torch.zeros(output_size))

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
        outputs = unroll(
            weights_of(self.lstm, self.projection), self.start_token, None, state, window_size, truth, feeding
        )
        return to_time_order(outputs, mask, self.reverse)
