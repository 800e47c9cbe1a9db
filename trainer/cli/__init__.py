"""The `trainer` command.

Each subcommand checks its input before it does anything. What the user can mend ends in one
sentence and exit code 2; a stop on request in 75; any other failure is a bug and shows where.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from trainer import __version__
from trainer.errors import TrainerError

DEVICES = ("auto", "cpu", "cuda")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = _parser().parse_args(arguments)
    # Before torch is imported. OpenMP's threads spin while they wait for each other; asleep, they leave the
    # core to others. Measured once on 2 cores, digits on the CPU: 7 -> 107 images/s beside another busy
    # process, 194 -> 164 without one. On a GPU nothing waits for them.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        return int(options.run(options))
    except TrainerError as error:
        print(f"trainer: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("trainer: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainer", description="Train, track, register and export a ResNet-50.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"trainer {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    prepare = command("prepare", "make a data set", "trainer prepare digits --out data/digits")
    prepare.add_argument("dataset", choices=["digits"], help="which data set")
    prepare.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    prepare.set_defaults(run=_run_prepare)

    train = command(
        "train",
        "train a recipe and register the model; the same command again goes on where it was",
        "trainer train rn50-baseline --data /data/imagenet --set epochs=30",
    )
    train.add_argument("recipe", metavar="RECIPE", help="a shipped recipe's name or a YAML file")
    train.add_argument("--data", type=Path, required=True, help="folder with train/CLASS/* and val/CLASS/*")
    train.add_argument("--runs", type=Path, default=Path("runs"), help="where runs are kept (default: runs)")
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the recipe"
    )
    train.add_argument("--name", help="name of the run (default: the recipe's)")
    train.add_argument(
        "--device", choices=DEVICES, default="auto", help="default: the GPU where there is one"
    )
    train.add_argument(
        "--processes", type=_positive, metavar="N", help="default: one for each GPU, one on the CPU"
    )
    train.add_argument(
        "--decode", choices=["cpu", "mixed"], help="where JPEGs are decoded (default: on the device)"
    )
    train.add_argument(
        "--dry-run", action="store_true", help="check everything, show the plan, train nothing"
    )
    train.add_argument("--json", action="store_true", help="print the result as JSON")
    train.set_defaults(run=_run_train)

    evaluate = command(
        "evaluate",
        "measure a model on the validation images",
        "trainer evaluate models:/resnet50-imagenet@candidate --data /data/imagenet",
    )
    evaluate.add_argument(
        "model",
        metavar="MODEL",
        help="models:/NAME@alias, runs:/ID/…, a run folder, a snapshot file or a bundle",
    )
    evaluate.add_argument(
        "--data", type=Path, required=True, help="folder with train/CLASS/* and val/CLASS/*"
    )
    evaluate.add_argument(
        "--runs", type=Path, default=Path("runs"), help="where the embedded MLflow store is"
    )
    evaluate.add_argument(
        "--device", choices=DEVICES, default="auto", help="default: the GPU where there is one"
    )
    evaluate.add_argument("--batch", type=_positive, default=64, help="images at a time (default: 64)")
    evaluate.add_argument("--json", action="store_true", help="print the result as JSON")
    evaluate.set_defaults(run=_run_evaluate)

    export = command(
        "export",
        "write the verified ONNX bundle for a Jetson",
        "trainer export models:/resnet50-imagenet@candidate --out bundle",
    )
    export.add_argument("model", metavar="MODEL", help="models:/NAME@alias or models:/NAME/VERSION")
    export.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    export.add_argument("--runs", type=Path, default=Path("runs"), help="where the embedded MLflow store is")
    export.add_argument("--json", action="store_true", help="print the result as JSON")
    export.set_defaults(run=_run_export)

    sync = command(
        "sync", "bring MLflow up to date with a run's journal", "trainer sync runs/digits-1a2b3c4d5e"
    )
    sync.add_argument("folder", metavar="RUN", type=Path, help="the run's folder")
    sync.add_argument("--follow", action="store_true", help="go on until the run ends")
    sync.set_defaults(run=_run_sync)

    bench = command("bench", "time training on this machine", "trainer bench train rn50-baseline --json")
    bench.add_argument("what", choices=["train"], help="what to time")
    bench.add_argument("recipe", metavar="RECIPE", help="a shipped recipe's name or a YAML file")
    bench.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the recipe"
    )
    bench.add_argument(
        "--data", type=Path, help="training images (default: generated photos of ImageNet's size)"
    )
    bench.add_argument("--steps", type=_positive, default=50, help="timed steps (default: 50)")
    bench.add_argument(
        "--device", choices=DEVICES, default="auto", help="default: the GPU where there is one"
    )
    bench.add_argument("--json", action="store_true", help="print the figures as JSON")
    bench.set_defaults(run=_run_bench)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


# Each command imports what it needs when it runs: `trainer --help` must not wait for torch.


def _run_prepare(options: argparse.Namespace) -> int:
    from trainer.data import prepare_digits

    made = prepare_digits(options.out)
    print(f"{options.dataset}: {'written to' if made else 'already complete in'} {options.out}")
    return 0


def _run_train(options: argparse.Namespace) -> int:
    from trainer.cli._train import run

    return run(options)


def _run_evaluate(options: argparse.Namespace) -> int:
    from trainer.cli._evaluate import run

    return run(options)


def _run_export(options: argparse.Namespace) -> int:
    from trainer.delivery import export

    bundle = export(options.model, options.out, runs=options.runs)
    if options.json:
        print(json.dumps({"bundle": str(bundle.folder), "max_difference": bundle.max_difference}))
    else:
        print(
            f"bundle written to {bundle.folder}; ONNX Runtime and PyTorch agree within "
            f"{bundle.max_difference:.1e} in probability"
        )
    return 0


def _run_sync(options: argparse.Namespace) -> int:
    from trainer.tracking import sync

    sync(options.folder, follow=options.follow)
    return 0


def _run_bench(options: argparse.Namespace) -> int:
    from trainer.cli._bench import run

    return run(options)
