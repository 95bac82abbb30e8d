"""On a GPU: values equal those of the CPU, and the CPU never waits between the first kernel and the last."""

import copy
import subprocess
import sys

import pytest
import torch

from refold.models import Autoencoder, Feeding, LatentBridge, LSTMEncoder
from tests.models import parity

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU", allow_module_level=True)


@pytest.mark.parametrize("kind", parity.DECODERS)
@pytest.mark.parametrize("coin", parity.COINS)
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_values_of_the_cpu_without_a_wait(kind, coin, detach, L, masked):
    torch.manual_seed(0)
    B, T, F, H, Z = 5, 12, 3, 8, 2
    encoder = LSTMEncoder(input_size=F, hidden_size=H, num_layers=L, dropout=0.0, bidirectional=True).double()
    sizes = {"encoder_num_layers": L, "encoder_state_size": 2 * H, "decoder_num_layers": L, "decoder_hidden_size": H}
    bridge = LatentBridge(latent_dim=Z, dropout=0.0, linear_path="none", normalize_windows=False, **sizes).double()
    model = Autoencoder(encoder, bridge, parity.make_decoder(kind, F=F, Z=Z, H=H, L=L))
    windows, mask = torch.randn(B, T, F).double(), parity.make_mask(B, T) if masked else None
    feeding = Feeding(parity.make_coins(coin, B, T), detach, 0)
    on_gpu, gpu_windows = copy.deepcopy(model).cuda(), windows.cuda()
    gpu_mask = None if mask is None else mask.cuda()
    outputs = model(windows, mask, feeding)
    outputs.square().sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        gpu_outputs = on_gpu(gpu_windows, gpu_mask, feeding)
        gpu_outputs.square().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(gpu_outputs.cpu(), outputs, **parity.FLOAT64)
    for theirs, ours in zip(on_gpu.parameters(), model.parameters(), strict=True):
        if ours.grad is not None:
            torch.testing.assert_close(theirs.grad.cpu(), ours.grad, **parity.FLOAT64)


def test_a_mask_without_a_present_bar_is_a_cuda_error():
    """Runs in a process of its own, which cannot use the GPU afterwards."""
    call = "check_mask(torch.tensor([[True], [False]], device='cuda'), 2, 1); torch.cuda.synchronize()"
    script = f"import torch; from refold.models.masks import check_mask; {call}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "device-side assert" in done.stderr
