"""Arguments that several commands take, and the types of their values."""

from __future__ import annotations

import argparse
import dataclasses
import os
import typing
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from trainer.config import CompileMode, Decoder

T = TypeVar("T")
N = TypeVar("N", int, float)


def add_run(parser: ArgumentParser) -> None:
    """The arguments that `RunOptions` holds, but --name, and --json."""
    for add in (
        add_recipe,
        add_data,
        add_runs,
        add_device,
        add_execution,
        add_offline,
        add_partial,
        add_json,
    ):
        add(parser)


def add_runs_remote(parser: ArgumentParser, what: str) -> None:
    """--runs-remote, with `what` it is in the help."""
    parser.add_argument(
        "--runs-remote",
        default=os.environ.get("RUNS_REMOTE") or None,
        metavar="URL",
        help=f"{what} (default: $RUNS_REMOTE)",
    )


def add_recipe(parser: ArgumentParser, *, optional: bool = False) -> None:
    """RECIPE and --set."""
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs="?" if optional else None,
        help="name of a shipped recipe (see trainer recipes), or a YAML file",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace a setting of the recipe"
    )


def add_data(parser: ArgumentParser) -> None:
    """--data."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of a prepared data set"
    )


def add_model(parser: ArgumentParser, *, bundle: bool = False) -> None:
    """MODEL. `bundle`: whether a bundle is one for this command."""
    last = "a run folder, a checkpoint file or a bundle" if bundle else "a run folder or a checkpoint file"
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a recipe (the candidate of its registered model), models:/NAME@ALIAS, models:/NAME/VERSION, "
        f"runs:/RUN_ID, {last}",
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


def add_partial(parser: ArgumentParser) -> None:
    """--partial."""
    parser.add_argument(
        "--partial",
        action="store_true",
        help="use a data set although images of the published one are missing, or more or elsewhere than there",
    )


def add_trust(parser: ArgumentParser) -> None:
    """--trust."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="take a registered version although it has no checksums of `trainer train`; none of its code is run",
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
        if not hasattr(namespace, field.name):  # of an argument that the command does not have
            continue
        value = getattr(namespace, field.name)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _number(kind: Callable[[str], N], text: str, condition: Callable[[N], bool], what: str) -> N:
    with suppress(ValueError):
        number = kind(text)
        if condition(number):
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not {what}")


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    return _number(int, text, lambda number: number >= 1, "a whole number above 0")


def non_negative_int(text: str) -> int:
    """A whole number of at least 0."""
    return _number(int, text, lambda number: number >= 0, "a whole number of at least 0")


def positive_float(text: str) -> float:
    """A number above 0, of seconds at most 30 years, which all libraries take."""
    return _number(float, text, lambda number: 0 < number <= 1e9, "a number above 0, such as 0.53 or 60")


def fraction(text: str) -> float:
    """A number between 0 and 1."""
    return _number(float, text, lambda number: 0 < number < 1, "a number between 0 and 1, such as 0.1")


def jpeg_quality(text: str) -> int:
    """A JPEG quality from 1 to 95."""
    return _number(int, text, lambda number: 1 <= number <= 95, "a whole number from 1 to 95")
