"""cuDNN needs the weights in one piece of memory: weights and gradients are the same there."""

import pytest
import torch
from torch import nn

from refold.models.fused import fused_lstm, in_one_piece
from tests.models import parity


@pytest.mark.parametrize("L", [1, 3])
def test_one_piece_holds_the_same_weights_matrices_first(L):
    lstm = nn.LSTM(3, 4, L)
    weights = [weight for layer in lstm.all_weights for weight in layer]
    views = in_one_piece(weights)
    assert all(torch.equal(view, weight) for view, weight in zip(views, weights, strict=True))
    by_place = sorted(views, key=lambda view: view.storage_offset())
    assert len({view.untyped_storage().data_ptr() for view in views}) == 1
    assert [view.ndim for view in by_place] == [2] * 2 * L + [1] * 2 * L
    ends = [view.storage_offset() + view.numel() for view in by_place]
    assert [view.storage_offset() for view in by_place[1:]] == ends[:-1]  # no gaps
    sum(view.sum() for view in views).backward()
    assert all((weight.grad == 1).all() for weight in weights)


def test_a_fused_call_is_nn_lstm_and_needs_no_training_mode():
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, 2, batch_first=True).double().eval()
    inputs, state = torch.randn(2, 5, 3).double(), (torch.randn(2, 2, 4).double(), torch.randn(2, 2, 4).double())
    ours, theirs = fused_lstm(inputs, state, lstm.all_weights, 0.0), lstm(inputs, state)
    torch.testing.assert_close(ours, theirs, **parity.FLOAT64)
    ours[0].sum().backward()
    assert all(weight.grad is not None for weight in lstm.parameters())
