"""docs/models.md: its blocks run, from a plain loop to a trainer with batches of one's own."""

import pytest
from conftest import ROOT


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*number of training batches.*")
def test_the_page_trains_the_model_in_a_plain_loop_and_in_lightning():
    blocks = (ROOT / "docs" / "models.md").read_text().split("```python\n")[1:]
    assert len(blocks) == 5
    scope = {}
    for block in blocks[:2]:
        exec(block.partition("```")[0], scope)
    assert scope["losses"][-1] < 0.8 * scope["losses"][0]
    assert scope["codes"].shape == (256, 16)
    assert scope["reconstruction"].shape == scope["windows"].shape
    for block in blocks[2:]:
        exec(block.partition("```")[0], scope)
    assert len(scope["losses"]) == 60
    assert scope["prediction"].shape == scope["ahead"].shape == (256, 4, 5)
    assert scope["loss"].requires_grad
    assert 0 < scope["errors"]["test/reconstruction_mse"] < 1.1
