"""Arguments that several commands take, and the types of their values."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, TypeVar

from trainer.config import CompileMode, Decoder

T = TypeVar("T")


def add_run(parser: ArgumentParser) -> None:
    """The arguments that `RunOptions` holds, but --name, and --json."""
    for add in (add_recipe, add_data, add_runs, add_device, add_execution, add_offline, add_json):
        add(parser)


def add_recipe(parser: ArgumentParser) -> None:
    """RECIPE and --set."""
    parser.add_argument(
        "recipe", metavar="RECIPE", help="name of a shipped recipe (see trainer recipes), or a YAML file"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace a setting of the recipe"
    )


def add_data(parser: ArgumentParser) -> None:
    """--data."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of a prepared data set"
    )


def add_runs(parser: ArgumentParser) -> None:
    """--runs."""
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="folder of all runs, and of MLflow's SQLite store where MLFLOW_TRACKING_URI names no server "
        "(default: runs)",
    )


def add_device(parser: ArgumentParser) -> None:
    """--device."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device to run on (default: the GPU where there is one)",
    )


def add_nproc(parser: ArgumentParser) -> None:
    """--nproc-per-node."""
    parser.add_argument(
        "--nproc-per-node",
        type=positive_int,
        metavar="N",
        help="number of processes on this machine (default: one a GPU, one on the CPU)",
    )


def add_execution(parser: ArgumentParser) -> None:
    """--batch-per-gpu, --compile and --decoder."""
    parser.add_argument(
        "--batch-per-gpu",
        type=positive_int,
        metavar="N",
        help="images at a time; the rest of a GPU's share of the global batch is accumulated "
        "(default: the most that fits, measured)",
    )
    parser.add_argument(
        "--compile",
        choices=typing.get_args(CompileMode),
        help="torch.compile mode of the network; cudagraphs is reduce-overhead (default: the fastest, measured)",
    )
    parser.add_argument(
        "--decoder",
        choices=typing.get_args(Decoder),
        help="device that decodes JPEGs; mixed-huffman leaves no entropy decoding to the CPU "
        "(default: the fastest, measured)",
    )


def add_offline(parser: ArgumentParser) -> None:
    """--offline."""
    parser.add_argument(
        "--offline",
        action="store_true",
        help="start although MLflow does not answer; the journal is synced when it does",
    )


def add_workers(parser: ArgumentParser) -> None:
    """--workers."""
    parser.add_argument(
        "--workers", type=positive_int, metavar="N", help="number of writer threads (default: one a core)"
    )


def add_json(parser: ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def options_of(kind: type[T], namespace: argparse.Namespace) -> T:
    """The dataclass `kind`, with the values of the arguments that are called as its fields."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        value = getattr(namespace, field.name)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def non_negative_int(text: str) -> int:
    """A whole number of at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is a negative number")
    return number


def positive_float(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def fraction(text: str) -> float:
    """A number between 0 and 1."""
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def jpeg_quality(text: str) -> int:
    """A JPEG quality from 1 to 95."""
    number = int(text)
    if not 1 <= number <= 95:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 95")
    return number
