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
from typing import Any

from trainer import __version__
from trainer.errors import TrainerError

DEVICES = ("auto", "cpu", "cuda")
DECODES = ("cpu", "mixed", "mixed-huffman")


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
        return _parser_in(commands, name, summary, example)

    prepare = command(
        "prepare",
        "make a data set from what is handed out; the same command again goes on if interrupted",
        "trainer prepare kaggle imagenet-object-localization-challenge.zip --out /data/imagenet",
    )
    forms = prepare.add_subparsers(metavar="FORM", required=True, dest="form")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    common.add_argument(
        "--writers", type=_positive, metavar="N", help="threads that write (default: one a core)"
    )
    smaller = argparse.ArgumentParser(add_help=False)
    smaller.add_argument(
        "--max-side", type=_positive, metavar="PX",
        help="store images whose shorter side is longer than this smaller (suggested: 400; default: as they are)",
    )  # fmt: skip
    smaller.add_argument("--quality", type=_quality, default=90, help="of JPEGs made smaller (default: 90)")
    download = argparse.ArgumentParser(add_help=False)
    download.add_argument(
        "--downloads", type=Path, metavar="DIR",
        help="where downloads go and stay (default: in --out, gone when it is complete)",
    )  # fmt: skip
    sums = argparse.ArgumentParser(add_help=False)
    sums.add_argument(
        "--no-md5", action="store_true", help="take another archive than the published one, e.g. a part of it"
    )

    def form(
        name: str, summary: str, example: str, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        return _parser_in(forms, name, summary, f"trainer prepare {example}", common, *parents)

    one = form(
        "imagenet",
        "ImageNet as image-net.org hands it out",
        "imagenet ILSVRC2012_img_train.tar ILSVRC2012_img_val.tar --out /data/imagenet",
        smaller, download, sums,
    )  # fmt: skip
    one.add_argument(
        "archives", nargs=2, metavar="TAR", help="the two tars, as paths, URLs, magnet links or torrents"
    )
    one.add_argument(
        "--devkit", metavar="TAR", help="take the validation labels from this instead of our list"
    )
    one = form(
        "kaggle",
        "ImageNet as Kaggle's zip or ILSVRC2017_CLS-LOC.tar.gz hold it",
        "kaggle imagenet-object-localization-challenge.zip --out /data/imagenet",
        smaller, download,
    )  # fmt: skip
    one.add_argument("archive", metavar="ARCHIVE", help="a path, URL, magnet link or torrent")
    for name, summary in (
        ("imagenette", "ten easy classes of ImageNet"),
        ("imagewoof", "ten breeds of dogs from ImageNet"),
    ):
        one = form(name, summary, f"{name} --size 320 --out data/{name}", smaller, download, sums)
        one.add_argument("archive", nargs="?", metavar="ARCHIVE", help="a path or URL (default: fast.ai's)")
        one.add_argument(
            "--size", choices=["full", "320", "160"], default="full", help="shorter side in pixels"
        )
    one = form(
        "tiny-imagenet",
        "200 classes of ImageNet at 64 x 64 pixels",
        "tiny-imagenet --out data/tiny-imagenet",
        download, sums,
    )  # fmt: skip
    one.add_argument("archive", nargs="?", metavar="ARCHIVE", help="a path or URL (default: Stanford's)")
    form("digits", "1,797 handwritten digits that scikit-learn carries", "digits --out data/digits")
    one = forms.add_parser(
        "folder",
        help="your own folders, one for each class",
        description="Your own folders, one for each class.",
        epilog="example:  trainer prepare folder /data/birds --val-fraction 0.1",
        allow_abbrev=False,
    )
    one.add_argument(
        "folder", type=Path, metavar="DIR", help="holds train/CLASS/* and val/CLASS/*, or CLASS/*"
    )
    one.add_argument(
        "--out",
        type=Path,
        help="copy the images there (default: they stay where they are, with a manifest beside)",
    )
    one.add_argument(
        "--val-fraction", type=_share, metavar="SHARE", help="of each class, if there is no val/"
    )
    one.add_argument("--name", default="", help="what to call the data set (default: as the folder)")
    one.add_argument("--seed", type=int, default=0, help="decides which images validate (default: 0)")
    one.add_argument("--json", action="store_true", help="print the result as JSON")
    one.add_argument(
        "--writers", type=_positive, metavar="N", help="threads that write (default: one a core)"
    )
    one.add_argument("--max-side", type=_positive, metavar="PX", help="as for the other forms; needs --out")
    one.add_argument("--quality", type=_quality, default=90, help="of JPEGs made smaller (default: 90)")
    prepare.set_defaults(run=_run_prepare)

    check = command(
        "check",
        "see whether a data set is what its manifest says",
        "trainer check /data/imagenet --decode --quarantine",
    )
    check.add_argument("data", type=Path, metavar="DIR", help="the data set's folder")
    check.add_argument("--decode", action="store_true", help="decode every image, on all cores")
    check.add_argument(
        "--quarantine",
        action="store_true",
        help="move bad files to DIR/quarantine and write the manifest anew",
    )
    check.add_argument("--json", action="store_true", help="print the result as JSON")
    check.set_defaults(run=_run_check)

    train = command(
        "train",
        "train a recipe and register the model; the same command again goes on where it was",
        "trainer train rn50-baseline --data /data/imagenet --set epochs=30",
    )
    train.add_argument("recipe", metavar="RECIPE", help="a shipped recipe's name or a YAML file")
    train.add_argument("--data", type=Path, required=True, help="a prepared data set")
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
        "--decode", choices=DECODES, help="where JPEGs are decoded (default: what is fastest here)"
    )
    train.add_argument(
        "--save-every",
        type=_above_zero,
        default=60.0,
        metavar="SECONDS",
        help="of training between two snapshots (default: 60); there is one after each epoch as well",
    )
    train.add_argument(
        "--restarts",
        type=_not_negative,
        default=3,
        metavar="N",
        help="how often the processes are started again after a crash without progress (default: 3)",
    )
    train.add_argument(
        "--patience",
        type=_above_zero,
        default=600.0,
        metavar="SECONDS",
        help="how long the processes wait for one that is stuck (default: 600)",
    )
    train.add_argument(
        "--price",
        type=_above_zero,
        default=os.environ.get("TRAINER_PRICE_PER_HOUR") or None,
        metavar="USD",
        help="of an hour of this machine, to show what the run costs (default: $TRAINER_PRICE_PER_HOUR)",
    )
    train.add_argument(
        "--track-later",
        action="store_true",
        help="start although MLflow does not answer; what there is to tell follows when it does",
    )
    train.add_argument(
        "--dry-run", action="store_true", help="check everything, show the plan, train nothing"
    )
    train.add_argument("--json", action="store_true", help="print the result as JSON")
    train.set_defaults(run=_run_train)

    find_lr = command(
        "find-lr",
        "find the peak learning rate of a recipe: train some steps with a growing rate, in one process",
        "trainer find-lr flowers.yaml --data /data/flowers --set global_batch=256",
    )
    find_lr.add_argument("recipe", metavar="RECIPE", help="a shipped recipe's name or a YAML file")
    find_lr.add_argument("--data", type=Path, required=True, help="a prepared data set")
    find_lr.add_argument(
        "--runs", type=Path, default=Path("runs"), help="where runs are kept (default: runs)"
    )
    find_lr.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the recipe"
    )
    find_lr.add_argument("--name", help="what to call it, after find-lr- (default: as the recipe)")
    find_lr.add_argument(
        "--lowest", type=_above_zero, default=1e-5, metavar="RATE",
        help="of the optimizer, at the recipe's global batch, in the first step (default: 1e-5)",
    )  # fmt: skip
    find_lr.add_argument(
        "--highest", type=_above_zero, default=10.0, metavar="RATE", help="in the last step (default: 10)"
    )
    find_lr.add_argument(
        "--steps", type=_positive, default=200, metavar="N",
        help="at most; it ends when the loss is lost (default: 200)",
    )  # fmt: skip
    find_lr.add_argument(
        "--device", choices=DEVICES, default="auto", help="default: the GPU where there is one"
    )
    find_lr.add_argument(
        "--decode", choices=DECODES, help="where JPEGs are decoded (default: what is fastest here)"
    )
    find_lr.add_argument(
        "--track-later",
        action="store_true",
        help="start although MLflow does not answer; what there is to tell follows when it does",
    )
    find_lr.add_argument("--json", action="store_true", help="print the result as JSON")
    find_lr.set_defaults(run=_run_find_lr)

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
    evaluate.add_argument("--data", type=Path, required=True, help="a prepared data set")
    evaluate.add_argument(
        "--runs", type=Path, default=Path("runs"), help="where the embedded MLflow store is"
    )
    evaluate.add_argument(
        "--device", choices=DEVICES, default="auto", help="default: the GPU where there is one"
    )
    evaluate.add_argument("--batch", type=_positive, default=64, help="images at a time (default: 64)")
    evaluate.add_argument(
        "--per-class", action="store_true", help="show each class as well, from the worst to the best"
    )
    evaluate.add_argument(
        "--flip", action="store_true", help="average the logits of each image and of its mirror image"
    )
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

    estimate = command(
        "estimate",
        "what a recipe will take on a rented machine: hours, dollars, and what binds",
        "trainer estimate rn50-onecycle --instance g5.12xlarge --price 1.60",
    )
    estimate.add_argument("recipe", metavar="RECIPE", help="a shipped recipe's name or a YAML file")
    estimate.add_argument("--instance", metavar="NAME", help="as AWS calls it (default: all that are known)")
    estimate.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the recipe"
    )
    estimate.add_argument("--data", type=Path, help="a prepared data set (default: ImageNet as published)")
    estimate.add_argument(
        "--images-per-second", type=_above_zero, metavar="N",
        help="of one GPU, as `trainer bench train` measures them (default: predicted)",
    )  # fmt: skip
    estimate.add_argument("--price", type=_above_zero, metavar="USD", help="of an hour (default: on demand)")
    estimate.add_argument(
        "--disk-mb", type=_above_zero, default=125.0, metavar="N", help="a second (default: 125, gp3)"
    )
    estimate.add_argument(
        "--disk-iops",
        type=_above_zero,
        default=3000.0,
        metavar="N",
        help="reads a second (default: 3,000, gp3)",
    )
    estimate.add_argument("--json", action="store_true", help="print the figures as JSON")
    estimate.set_defaults(run=_run_estimate)

    layers = command(
        "summary",
        "what a recipe's network is made of: layers, parameters, and multiply-adds for an image",
        "trainer summary rn50-baseline",
    )
    layers.add_argument("recipe", metavar="RECIPE", help="a shipped recipe's name or a YAML file")
    layers.add_argument(
        "--classes", type=_positive, default=1000, metavar="N", help="of the data set (default: 1,000)"
    )
    layers.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the recipe"
    )
    layers.add_argument("--json", action="store_true", help="print the figures as JSON")
    layers.set_defaults(run=_run_summary)

    bench = command(
        "bench", "measure this machine, as ratios of one run", "trainer bench train rn50-baseline --json"
    )
    kinds = bench.add_subparsers(metavar="WHAT", required=True, dest="what")
    for name, summary, steps in (
        (
            "train",
            "images/s of training: the device alone, fed with JPEGs, the feeding alone, a plain loop",
            50,
        ),
        ("loop", "`trainer train` with journal and snapshots, against nothing but its steps", 400),
    ):
        one = kinds.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        one.add_argument("recipe", metavar="RECIPE", help="a shipped recipe's name or a YAML file")
        one.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the recipe"
        )
        one.add_argument(
            "--data", type=Path, help="a prepared data set (default: generated photos of ImageNet's size)"
        )
        one.add_argument(
            "--steps", type=_positive, default=steps, help=f"timed steps of each turn (default: {steps})"
        )
        one.add_argument("--rounds", type=_positive, default=3, help="turns of each (default: 3)")
        one.add_argument(
            "--device", choices=DEVICES, default="auto", help="default: the GPU where there is one"
        )
        one.add_argument("--json", action="store_true", help="print the figures as JSON")
        if name == "train":
            one.add_argument("--decode", choices=DECODES, help="where JPEGs are decoded (default: tried)")
            one.add_argument(
                "--profile",
                type=Path,
                metavar="FILE",
                help="write a Chrome trace of five steps, for ui.perfetto.dev",
            )
    one = kinds.add_parser(
        "loader",
        help="making training batches: ours against DALI's own reader",
        description="Making training batches: ours, the same with another seed (what chance does), DALI's own reader.",
        epilog="example:  trainer bench loader --sample 4096 --json",
        allow_abbrev=False,
    )
    what = one.add_mutually_exclusive_group(required=True)
    what.add_argument("data", type=Path, nargs="?", metavar="DIR", help="a prepared data set")
    what.add_argument("--sample", type=_positive, metavar="N", help="generated photos of ImageNet's size")
    one.add_argument("--batch", type=_positive, default=128, help="images at a time (default: 128)")
    one.add_argument(
        "--images", type=_positive, default=4096, help="timed in each turn, at least (default: 4,096)"
    )
    one.add_argument("--rounds", type=_positive, default=9, help="turns of each (default: 9)")
    one.add_argument(
        "--max-side",
        type=_positive,
        metavar="PX",
        help="ours also on the photos as `prepare --max-side` stores them",
    )
    one.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="with this other one only (default: all that are installed)",
    )
    one.add_argument("--cold", action="store_true", help="have the system forget the files before each turn")
    one.add_argument("--scratch", type=Path, help="a folder on the disk to measure (default: the system's)")
    one.add_argument("--device", choices=DEVICES, default="auto", help="default: the GPU where there is one")
    one.add_argument("--json", action="store_true", help="print the figures as JSON")
    for name, summary in (
        ("prepare", "`trainer prepare imagenet` against tar and find"),
        ("check", "`trainer check --decode` against Pillow"),
        ("open", "opening a manifest as long as ImageNet's"),
    ):
        one = kinds.add_parser(name, help=summary)
        if name != "open":
            one.add_argument("--images", type=_positive, default=20_000, help="how many (default: 20,000)")
        one.add_argument(
            "--scratch", type=Path, help="a folder on the disk to measure (default: the system's)"
        )
        one.add_argument("--json", action="store_true", help="print the figures as JSON")
    bench.set_defaults(run=_run_bench)
    return parser


def _parser_in(
    parsers: Any, name: str, summary: str, example: str, *parents: argparse.ArgumentParser
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = parsers.add_parser(
        name,
        parents=parents,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _not_negative(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is a negative number")
    return number


def _above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def _quality(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 95:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 95")
    return number


# Each command imports what it needs when it runs: `trainer --help` must not wait for torch.


def _run_prepare(options: argparse.Namespace) -> int:
    from trainer.cli._prepare import run

    return run(options)


def _run_check(options: argparse.Namespace) -> int:
    from trainer.cli._check import run

    return run(options)


def _run_train(options: argparse.Namespace) -> int:
    from trainer.cli._train import run

    return run(options)


def _run_find_lr(options: argparse.Namespace) -> int:
    from trainer.cli._find_lr import run

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
    from trainer.tracking import has_saved_model, read_journal, register, sync

    sync(options.folder, follow=options.follow)
    # A shipper, which follows, leaves the model to its trainer.
    if (
        not options.follow
        and read_journal(options.folder).status == "finished"
        and has_saved_model(options.folder)
    ):
        print(f"the run is in MLflow, its model is {register(options.folder).uri}")
    return 0


def _run_estimate(options: argparse.Namespace) -> int:
    from trainer.cli._estimate import run

    return run(options)


def _run_summary(options: argparse.Namespace) -> int:
    from trainer.config import load_recipe
    from trainer.model import summary_of

    recipe = load_recipe(options.recipe, options.set)
    made = summary_of(recipe.model, options.classes, recipe.images.train_size)
    print(json.dumps({"model": recipe.model, **made.as_dict()}) if options.json else made.table(), end="")
    return 0


def _run_bench(options: argparse.Namespace) -> int:
    from trainer.cli._bench import run

    return run(options)
