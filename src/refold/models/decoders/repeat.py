"""The decoder whose input at each step is the code."""

from typing import Annotated

from torch import Tensor, nn

from refold.bounds import at_least, checked, within
from refold.models.closed_loop import Feeding
from refold.models.decoders.boundary import check_inputs, to_time_order
from refold.models.fused import State


class RepeatDecoder(nn.Module):
    """LSTM whose input is the same conditioning at each step, and one linear projection shared by all steps.

    Known as RepeatVector or the unconditional decoder (Srivastava et al. 2015). It is never fed the truth, so teacher
    forcing changes nothing.

    Args: output_size: F. conditioning_size: Z. hidden_size: H. num_layers: L. dropout: probability of dropping a number
        between two layers while training. reverse: decode from the last present bar to the first.
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
    ) -> None:
        super().__init__()
        self.num_layers, self.hidden_size = num_layers, hidden_size
        self.sizes = num_layers, hidden_size, conditioning_size, output_size
        self.reverse = reverse
        self.lstm = nn.LSTM(conditioning_size, hidden_size, num_layers, batch_first=True, dropout=dropout)
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
        """Decode T bars; truth and feeding are taken, as by the other decoders, and not used.

        Args: conditioning: (B, Z). state: first (h, c), each (L, B, H). window_size: T. mask: (B, T) bool or None.
        Returns: (B, T, F) in the order of time; finite but without meaning at absent bars.
        Raises: ValueError: an argument does not fit (`check_inputs`).
        """
        check_inputs(
            conditioning=conditioning, state=state, window_size=window_size, truth=truth, mask=mask, sizes=self.sizes
        )
        repeated = conditioning.unsqueeze(1).expand(-1, window_size, -1)  # (B, Z) -> (B, T, Z)
        hidden, _ = self.lstm(repeated, state)
        return to_time_order(self.projection(hidden), mask, self.reverse)
