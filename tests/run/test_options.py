"""Options and the arguments that mean the same: processes are started with the latter."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.cli import make_parser
from trainer.cli._args import options_of
from trainer.run import EvaluateOptions, ExtendOptions, FindLrOptions, TrainOptions

ALL = TrainOptions(
    recipe="digits",
    data=Path("a folder"),
    set=("epochs=3", "preprocess.crop_area=[0.5,1]"),
    runs=Path("elsewhere"),
    name="-mine",
    device="cpu",
    batch_per_gpu=8,
    compile="default",
    decoder="mixed",
    offline=True,
    partial=True,
    nproc_per_node=2,
    checkpoint_interval=1.5,
    max_restarts=0,
    timeout=4.0,
    price=0.5,
    from_="-odd@candidate",
    weights="raw",
    trust=True,
    no_export=True,
    instance="g5.xlarge",
    max_hours=2.5,
    max_dollars=25.0,
    until_top1=0.75,
    fit=True,
)


@pytest.mark.parametrize("options", [ALL, TrainOptions(recipe="-odd.yaml", data=Path("data"))])
def test_the_arguments_of_train_give_its_options_back(options: TrainOptions) -> None:
    arguments = ["train", *options.arguments()]

    assert options_of(TrainOptions, make_parser(arguments).parse_args(arguments)) == options


def test_the_arguments_of_extend_give_its_options_back() -> None:
    options = ExtendOptions(
        folder=Path("-odd"), epochs=3, cooldown=True, data=Path("d"), timeout=4.0, name="b"
    )
    arguments = ["extend", *options.arguments()]

    assert options_of(ExtendOptions, make_parser(arguments).parse_args(arguments)) == options


def test_settings_may_be_a_list() -> None:
    options = TrainOptions(recipe="digits", data=Path("d"), set=["epochs=1", "seed=2"])

    assert [word for word in options.arguments() if word.startswith("--set")] == [
        "--set=epochs=1",
        "--set=seed=2",
    ]


def test_the_arguments_of_evaluate_give_its_options_back() -> None:
    options = EvaluateOptions(
        model="models:/x@candidate", data=Path("d"), batch_size=3, tta=True, per_class=True, partial=True
    )
    arguments = ["evaluate", *options.arguments()]

    assert options_of(EvaluateOptions, make_parser(arguments).parse_args(arguments)) == options


def test_the_defaults_of_the_command_line_are_those_of_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAINER_PRICE_PER_HOUR", raising=False)
    for kind, arguments in (
        (TrainOptions, ["train", "digits", "--data", "d"]),
        (FindLrOptions, ["find-lr", "digits", "--data", "d"]),
    ):
        parsed = options_of(kind, make_parser(arguments).parse_args(arguments))

        assert parsed == kind(recipe="digits", data=Path("d"))
