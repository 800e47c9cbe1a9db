"""Throughput of making training batches, as `trainer bench loader`, against all loaders that are installed here."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks._program import exit_code, make_parser
from benchmarks.peers import peers
from trainer.cli._bench import add_loader_arguments, run_loader
from trainer.performance import BASELINES


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = make_parser(
        "loader", "Throughput of making training batches, beside all loaders installed here."
    )
    add_loader_arguments(parser)
    options = parser.parse_args(arguments)
    return exit_code(lambda: run_loader(options, {**BASELINES, **peers()}), "benchmarks.loader")


if __name__ == "__main__":
    raise SystemExit(main())
