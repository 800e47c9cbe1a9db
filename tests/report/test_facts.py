"""What a report says of a run's beginning, and the command that makes it again."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.runs import evaluated_run
from trainer.cli import make_parser
from trainer.config import load_recipe
from trainer.run import ReportOptions, report_run

TAGS = {"parent_model": "models:/digits/3", "parent_digest": "0123456789abcdef" * 4, "parent_run_id": "abc"}


def reported(runs: Path, parent: dict[str, Any] | None, name: str = "digits", **tags: str) -> str:
    """The log of a run that began with `parent`; it has its facts and its command."""
    (runs / "digits-aaaaaaaaaa").mkdir(parents=True)
    run = evaluated_run(runs / f"{name}-0123456789", top1=[], tags=TAGS | tags)
    recipe = replace(load_recipe("digits"), epochs=7)
    (run / "recipe.json").write_text(json.dumps(recipe.as_dict()))
    (run / "dataset.json").write_text(json.dumps({"class_names": ["a"], "digest": "d", "source": "/photos"}))
    if parent:
        (run / "parent.json").write_text(json.dumps(parent))
    return (report_run(ReportOptions(folder=run)).folder / "log.md").read_text()


def fact(log: str, name: str) -> str:
    found = [line for line in log.splitlines() if line.startswith(f"- {name}: ")]
    return found[0].removeprefix(f"- {name}: ").replace("\\", "") if found else ""


def typed(log: str) -> list[str]:
    words = shlex.split(fact(log, "Command"))
    make_parser(words[1:]).parse_args(words[1:])
    return words


@pytest.mark.parametrize(
    ("name", "weights", "given"),
    [
        ("models:/digits/3", None, "models:/digits/3"),
        ("digits-aaaaaaaaaa", "ema", "{runs}/digits-aaaaaaaaaa"),
    ],
)
def test_a_run_with_the_weights_of_another_is_made_again_with_them(
    tmp_path: Path, name: str, weights: str | None, given: str
) -> None:
    log = reported(tmp_path, {"name": name, "weights": weights, "takes": "weights"})
    given = given.format(runs=tmp_path)

    words = typed(log)
    assert words[:5] == ["trainer", "train", "digits", "--set", "epochs=7"]
    rest = words[words.index("--from") :]
    assert rest == ["--from", given, *(["--weights", weights] if weights else []), "--data", "/photos"]
    which = f" ({weights})" if weights else ""
    assert fact(log, "Began with") == (
        f"the weights of {given}{which}; SHA-256 0123456789abcdef…, of run abc in MLflow"
    )


@pytest.mark.parametrize(
    ("takes", "name", "more"),
    [
        ("all", "digits", []),
        ("all, cooled down", "digits-longer", ["--cooldown", "--name", "digits-longer"]),
    ],
)
def test_an_extension_is_made_again_by_the_command_that_extends(
    tmp_path: Path, takes: str, name: str, more: list[str]
) -> None:
    parent = {"name": "digits-aaaaaaaaaa", "weights": None, "takes": takes}
    log = reported(tmp_path, parent, name=name, parent_epochs="4")

    extended = f"{tmp_path}/digits-aaaaaaaaaa"
    words = typed(log)
    assert words[:5] == ["trainer", "extend", extended, "--epochs", "7"]
    assert [word for word in words[5:] if word not in ("--data", "/photos")] == more
    assert fact(log, "Began with").startswith(
        f"weights, optimizer and EMA of {extended} after 4 epochs; SHA-256 0123"
    )


def test_a_run_without_a_parent_began_with_nothing(tmp_path: Path) -> None:
    log = reported(tmp_path, None)

    assert "Began with" not in log
    assert "--from" not in typed(log)
