"""`trainer bench` as it is typed; tests/performance has what it measures."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path

import pytest

from trainer.cli import _bench, main

SMALL = ["--batch-size", "4", "--images", "8", "--rounds", "2", "--only", "dali_reader"]

FLAGS = {
    "train": "--batch-per-gpu --compile --data --decoder --device --json --profile --rounds --set --steps",
    "loader": "--batch-size --cold --device --images --json --only --rounds --sample --scratch --shorter-side",
}


@pytest.mark.parametrize(
    ("kind", "add_arguments"),
    [("train", _bench.add_train_arguments), ("loader", _bench.add_loader_arguments)],
)
def test_the_flags_are_those_that_were_decided_on(kind: str, add_arguments: object) -> None:
    parser = ArgumentParser(add_help=False)
    assert callable(add_arguments)
    add_arguments(parser)

    assert {flag for action in parser._actions for flag in action.option_strings} == set(FLAGS[kind].split())


def test_bench_train_prints_its_result_as_json(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "global_batch=4", "--set", "model=tests.nets:Small", "--batch-per-gpu", "2"]
    measured = ["--steps", "2", "--rounds", "2", "--device", "cpu", "--json"]
    assert main(["bench", "train", "digits", "--data", str(photos), *settings, *measured]) == 0

    figures = json.loads(capsys.readouterr().out)
    assert figures["images_per_second"].keys() == {"synthetic", "real", "loader", "plain", "validation"}
    assert all(len(rounds) == 2 for rounds in figures["by_round"].values())
    assert figures["execution"] == {"batch_per_gpu": 2, "compile": "off", "decoder": "cpu"}
    assert (figures["steps"], figures["micro_batch"], figures["autotuned"]) == (2, 2, {})
    assert figures["roofline"]["bandwidth_share"] is None  # it is no ResNet-50


def test_bench_train_makes_a_table(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "global_batch=4", "--set", "model=tests.nets:Small"]
    measured = ["--steps", "1", "--rounds", "1", "--device", "cpu"]
    assert main(["bench", "train", "digits", "--data", str(photos), *settings, *measured]) == 0

    title, *rows = capsys.readouterr().out.strip().splitlines()
    assert "micro-batches of 4 images of 32 px, compile off, decoder cpu, medians of 1 rounds" in title
    names = [
        "synthetic",
        "real JPEGs",
        "loader",
        "plain loop",
        "validation",
        "step",
        "processors",
        "arithmetic",
    ]
    assert [row[:10].rstrip() for row in rows] == names


@pytest.mark.slow
def test_bench_loader_prints_its_result_as_json(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "loader", str(photos), *SMALL, "--json", "--cold", "--shorter-side", "24"]) == 0

    figures = json.loads(capsys.readouterr().out)
    assert set(figures["by_round"]) == {"trainer", "dali_reader", "trainer_shorter_side_24"}
    assert set(figures["ratio"]) == {"dali_reader", "trainer_shorter_side_24"}
    assert (figures["images"], figures["images_per_round"], figures["cold"]) == (8, 8, True)


def test_bench_loader_makes_its_own_photos_and_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_round = [*SMALL, "--rounds", "1"]
    assert main(["bench", "loader", "--sample", "6", "--scratch", str(tmp_path), *one_round]) == 0
    title, *rows = capsys.readouterr().out.strip().splitlines()

    assert title.startswith("6 images, batches of 4")
    assert [row.split()[0] for row in rows] == ["trainer", "dali_reader"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "there is no data folder nowhere"),
        (["."], "holds no data set"),
        (
            ["--sample", "4", "--only", "tensorflow"],
            "there are trainer_other_seed, trainer_decode_only, dali_reader, torchvision",
        ),
        (["--sample", "4", "--batch-size", "8"], "global_batch=8 is larger than the 4 training images"),
    ],
)
def test_bench_loader_says_what_is_wrong_with_its_input(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["bench", "loader", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("trainer: ")
    assert err.count("\n") == 1, err
    assert says in err


@pytest.mark.parametrize("arguments", [[], ["data", "--sample", "4"]])
def test_bench_loader_wants_either_a_folder_or_a_number(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "loader", *arguments])

    assert stopped.value.code == 2
