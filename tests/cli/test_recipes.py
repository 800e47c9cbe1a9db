"""`trainer recipes` as it is typed."""

from __future__ import annotations

import json

import pytest

from trainer.cli import main
from trainer.config import shipped_recipes


def test_every_shipped_recipe_is_listed_with_bar_hours_and_dollars(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert main(["recipes", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}

    assert rows.keys() == set(shipped_recipes())
    assert all(f"\n{name} " in shown and row["description"] in shown for name, row in rows.items())
    bars = [row["bar"] for row in rows.values() if row["bar"]]
    assert bars == sorted(bars)
    assert {0.60, 0.65, 0.75, 0.78} <= set(bars)
    for row in rows.values():
        assert bool(row["estimates"]) == bool(row["bar"])
        assert all(hours > 0 and usd > 0 for hours, usd in row["estimates"].values())
