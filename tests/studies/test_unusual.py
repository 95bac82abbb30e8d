"""The study of unusual bars: its scorers, its page, and what scores features without a model."""

import re

import numpy as np
import pytest
import torch
from conftest import ROOT

from refold.errors import ConfigError
from refold.scoring.baselines import Blank
from refold.scoring.scores import Mahalanobis, SquaredError
from refold.studies.pages import BEGIN, END, fill_page
from refold.studies.unusual import tell, unusual_scorers
from tests.data.makers import random_bars, ready
from tests.scoring.test_cloze_score import score
from tests.scoring.test_detector import detector

BARS = random_bars([300, 300], seed=8)


def test_without_a_model_a_score_judges_the_features_themselves():
    data = ready(BARS)
    series = data.train_windows.series
    scored = detector(data, autoencoder=Blank(), score=SquaredError()).score_series(series, np.array([[1, 299]]))
    np.testing.assert_allclose(scored.score[1:300], series.values[1:300].double().square().mean(dim=1), rtol=1e-6)


def test_another_score_is_a_copy_around_the_same_model():
    data = ready(BARS)
    own, given = detector(data, autoencoder=Blank()), Mahalanobis()
    other = own.judging_by(given)
    other.fit(BARS, BARS)
    assert other.autoencoder is own.autoencoder
    assert isinstance(own.score_function, SquaredError)
    assert not hasattr(given, "mean")
    assert not hasattr(own.threshold, "level")


def test_the_page_has_a_row_for_each_scorer_in_both_tables():
    page = (ROOT / "docs/unusual.md").read_text()
    data = ready(BARS)
    scorers = unusual_scorers(detector(data, autoencoder=Blank(), score=score()), data, 0)
    for name in scorers:
        assert len(re.findall(rf"^ +{re.escape(name)}  +\d", page, flags=re.MULTILINE)) == 3, name


def test_tables_have_the_mean_over_the_seeds():
    measured = [
        {"seed": seed, "errors": [{"scorer": "a", "kind": "wick", "average_precision": value,
         "event_average_precision": value, "event_f1": 1.0,
                                   "jumps_flagged": 0.0}]}
        for seed, value in ((0, 0.5), (1, 0.7))
    ]  # fmt: skip
    text = tell(measured)
    assert "2 seeds" in text
    assert re.search(r"a +0\.60 ±0\.14", text)


def test_a_text_goes_between_the_marks_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}old\n{END}\nafter\n")
    fill_page(page, "\none\n  two  \n")
    assert page.read_text() == f"before\n{BEGIN}    one\n      two\n{END}\nafter\n"
    (tmp_path / "other.md").write_text("no marks")
    for path in (tmp_path / "other.md", tmp_path / "missing.md"):
        with pytest.raises(ConfigError, match="it must be a page with the two lines"):
            fill_page(path, "text")


def test_blank_reconstructs_zeros_of_the_windows_shape():
    blank, windows = Blank(), torch.rand(3, 5, 2)
    assert torch.equal(blank.decode(blank.encode(windows), 5), torch.zeros(3, 5, 2))
