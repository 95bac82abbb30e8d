"""scripts/bench composite: a row for each kind, and what its log knows is not trained again."""

import pytest

from scripts.bench import composite


@pytest.mark.slow
def test_each_kind_has_a_row_and_the_log_is_gone_on_from(tmp_path, monkeypatch):
    monkeypatch.setattr(composite, "KINDS", {kind: composite.KINDS[kind] for kind in ("none", "conditional, linear")})
    text = composite.report(["learn"], 2, 1, 64, tmp_path / "log")
    rows = [line.split(" | ") for line in text.splitlines()]
    assert [row[0].strip("| ") for row in rows[2:]] == [*composite.KINDS, *composite.BASELINES.values()]
    assert {len(row) for row in rows[2:]} == {4 + composite.HORIZON}
    monkeypatch.setattr(composite, "trained", None)  # would fail
    assert composite.report(["learn"], 2, 1, 64, tmp_path / "log") == text
