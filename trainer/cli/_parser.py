"""The arguments of each command; what several of them take is written down once."""

from __future__ import annotations

import argparse
import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from trainer import __version__


def make_parser() -> ArgumentParser:
    """The whole command line; its result names the module in trainer.cli that runs the command."""
    parser = ArgumentParser(
        prog="trainer", description="Train, track, register and export a ResNet-50.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"trainer {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    shared = _Shared()
    for add in (
        _prepare, _check, _train, _find_lr, _evaluate, _export, _sync, _estimate, _summary, _bench
    ):  # fmt: skip
        add(commands, shared)
    return parser


class _Shared:
    """Arguments that several commands take, as parents of their parsers."""

    def __init__(self) -> None:
        self.recipe = _parent()
        self.recipe.add_argument("recipe", metavar="RECIPE", help="a shipped recipe's name or a YAML file")
        self.recipe.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the recipe"
        )
        self.data = _parent()
        self.data.add_argument("--data", type=Path, required=True, metavar="DIR", help="a prepared data set")
        self.runs = _parent()
        self.runs.add_argument(
            "--runs", type=Path, default=Path("runs"), metavar="DIR",
            help="where runs are kept, and MLflow's store where there is no server (default: runs)",
        )  # fmt: skip
        self.device = _parent()
        self.device.add_argument(
            "--device", choices=("auto", "cpu", "cuda"), default="auto",
            help="default: the GPU where there is one",
        )  # fmt: skip
        self.processes = _parent()
        self.processes.add_argument(
            "--nproc-per-node", type=_positive, metavar="N", help="default: one for each GPU, one on the CPU"
        )
        self.decode = _parent()
        self.decode.add_argument(
            "--decoder", choices=("cpu", "mixed", "mixed-huffman"),
            help="where JPEGs are decoded (default: what is fastest here)",
        )  # fmt: skip
        self.offline = _parent()
        self.offline.add_argument(
            "--offline", action="store_true",
            help="start although MLflow does not answer; what there is to tell follows when it does",
        )  # fmt: skip
        self.writers = _parent()
        self.writers.add_argument(
            "--workers", type=_positive, metavar="N", help="threads that write (default: one a core)"
        )
        self.smaller = _parent()
        self.smaller.add_argument(
            "--shorter-side", type=_positive, metavar="PX",
            help="store images whose shorter side is longer than this smaller "
            "(suggested: 352; default: as they are)",
        )  # fmt: skip
        self.smaller.add_argument(
            "--quality", type=_quality, default=90, help="of JPEGs made smaller (default: 90)"
        )
        self.scratch = _parent()
        self.scratch.add_argument(
            "--scratch", type=Path, metavar="DIR",
            help="a folder on the disk to measure (default: the system's)",
        )  # fmt: skip
        self.json = _parent()
        self.json.add_argument("--json", action="store_true", help="print the result as JSON")


def _prepare(commands: Any, shared: _Shared) -> None:
    prepare = _add(
        commands,
        "prepare",
        "make a data set from what is handed out; the same command again goes on if interrupted",
        "trainer prepare kaggle imagenet-object-localization-challenge.zip --out /data/imagenet",
    )
    forms = prepare.add_subparsers(metavar="FORM", required=True, dest="form")
    out = _parent()
    out.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    download = _parent()
    download.add_argument(
        "--downloads", type=Path, metavar="DIR",
        help="where downloads go and stay (default: in --out, gone when it is complete)",
    )  # fmt: skip
    sums = _parent()
    sums.add_argument(
        "--no-md5", action="store_true", help="take another archive than the published one, e.g. a part of it"
    )

    def form(name: str, summary: str, example: str, *parents: ArgumentParser) -> ArgumentParser:
        example = f"trainer prepare {example}"
        return _add(forms, name, summary, example, out, shared.writers, *parents, shared.json)

    imagenet = form(
        "imagenet",
        "ImageNet as image-net.org hands it out",
        "imagenet ILSVRC2012_img_train.tar ILSVRC2012_img_val.tar --out /data/imagenet",
        shared.smaller, download, sums,
    )  # fmt: skip
    imagenet.add_argument(
        "archives", nargs=2, metavar="TAR", help="the two tars, as paths, URLs, magnet links or torrents"
    )
    imagenet.add_argument(
        "--devkit", metavar="TAR", help="take the validation labels from this instead of our list"
    )
    kaggle = form(
        "kaggle",
        "ImageNet as Kaggle's zip or ILSVRC2017_CLS-LOC.tar.gz hold it",
        "kaggle imagenet-object-localization-challenge.zip --out /data/imagenet",
        shared.smaller, download,
    )  # fmt: skip
    kaggle.add_argument("archive", metavar="ARCHIVE", help="a path, URL, magnet link or torrent")
    for name, summary in (
        ("imagenette", "ten easy classes of ImageNet"),
        ("imagewoof", "ten breeds of dogs from ImageNet"),
    ):
        easy = form(
            name, summary, f"{name} --size 320 --out data/{name}", shared.smaller, download, sums
        )  # fmt: skip
        easy.add_argument("archive", nargs="?", metavar="ARCHIVE", help="a path or URL (default: fast.ai's)")
        easy.add_argument(
            "--size", choices=["full", "320", "160"], default="full", help="shorter side in pixels"
        )
    tiny = form(
        "tiny-imagenet",
        "200 classes of ImageNet at 64 x 64 pixels",
        "tiny-imagenet --out data/tiny-imagenet",
        download, sums,
    )  # fmt: skip
    tiny.add_argument("archive", nargs="?", metavar="ARCHIVE", help="a path or URL (default: Stanford's)")
    form("digits", "1,797 handwritten digits that scikit-learn carries", "digits --out data/digits")
    folder = _add(
        forms,
        "folder",
        "your own folders, one for each class",
        "trainer prepare folder /data/birds --val-fraction 0.1",
        shared.writers, shared.smaller, shared.json,
    )  # fmt: skip
    folder.add_argument(
        "folder", type=Path, metavar="DIR", help="holds train/CLASS/* and val/CLASS/*, or CLASS/*"
    )
    folder.add_argument(
        "--out", type=Path, metavar="DIR",
        help="copy the images there (default: they stay where they are, with a manifest beside)",
    )  # fmt: skip
    folder.add_argument(
        "--val-fraction", type=_share, metavar="SHARE", help="of each class, if there is no val/"
    )
    folder.add_argument("--name", default="", help="what to call the data set (default: as the folder)")
    folder.add_argument("--seed", type=int, default=0, help="decides which images validate (default: 0)")


def _check(commands: Any, shared: _Shared) -> None:
    check = _add(
        commands,
        "check",
        "see whether a data set is what its manifest says",
        "trainer check /data/imagenet --decode --quarantine",
        shared.json,
    )
    check.add_argument("data", type=Path, metavar="DIR", help="the data set's folder")
    check.add_argument("--decode", action="store_true", help="decode every image, on all cores")
    check.add_argument(
        "--quarantine", action="store_true",
        help="move bad files to DIR/quarantine and write the manifest anew",
    )  # fmt: skip


def _train(commands: Any, shared: _Shared) -> None:
    train = _add(
        commands,
        "train",
        "train a recipe and register the model; the same command again goes on where it was",
        "trainer train rn50-baseline --data /data/imagenet --set epochs=30",
        shared.recipe, shared.data, shared.runs, shared.device, shared.processes, shared.decode,
        shared.offline, shared.json,
    )  # fmt: skip
    train.add_argument("--name", help="name of the run (default: the recipe's)")
    train.add_argument(
        "--checkpoint-interval", type=_above_zero, default=60.0, metavar="SECONDS",
        help="of training between two checkpoints (default: 60); there is one after each epoch as well",
    )  # fmt: skip
    train.add_argument(
        "--max-restarts", type=_not_negative, default=3, metavar="N",
        help="how often the processes are started again after a crash without progress (default: 3)",
    )  # fmt: skip
    train.add_argument(
        "--timeout", type=_above_zero, default=600.0, metavar="SECONDS",
        help="how long the processes wait for one that is stuck (default: 600)",
    )  # fmt: skip
    train.add_argument(
        "--price", type=_above_zero, default=os.environ.get("TRAINER_PRICE_PER_HOUR") or None, metavar="USD",
        help="of an hour of this machine, to show what the run costs (default: $TRAINER_PRICE_PER_HOUR)",
    )  # fmt: skip
    train.add_argument(
        "--dry-run", action="store_true", help="check everything, show the plan, train nothing"
    )


def _find_lr(commands: Any, shared: _Shared) -> None:
    find_lr = _add(
        commands,
        "find-lr",
        "find the peak learning rate of a recipe: train some steps with a growing rate, in one process",
        "trainer find-lr flowers.yaml --data /data/flowers --set global_batch=256",
        shared.recipe, shared.data, shared.runs, shared.device, shared.decode, shared.offline, shared.json,
    )  # fmt: skip
    find_lr.add_argument("--name", help="what to call it, after find-lr- (default: as the recipe)")
    find_lr.add_argument(
        "--min-lr", type=_above_zero, default=1e-5, metavar="RATE",
        help="of the optimizer, at the recipe's global batch, in the first step (default: 1e-5)",
    )  # fmt: skip
    find_lr.add_argument(
        "--max-lr", type=_above_zero, default=10.0, metavar="RATE", help="in the last step (default: 10)"
    )
    find_lr.add_argument(
        "--steps", type=_positive, default=200, metavar="N",
        help="at most; it ends when the loss is lost (default: 200)",
    )  # fmt: skip


def _evaluate(commands: Any, shared: _Shared) -> None:
    evaluate = _add(
        commands,
        "evaluate",
        "measure a model on the validation images",
        "trainer evaluate models:/resnet50-imagenet@candidate --data /data/imagenet",
        shared.data, shared.runs, shared.device, shared.processes, shared.json,
    )  # fmt: skip
    evaluate.add_argument(
        "model", metavar="MODEL",
        help="models:/NAME@alias, runs:/ID/…, a run folder, a checkpoint file or a bundle",
    )  # fmt: skip
    evaluate.add_argument(
        "--batch-size", type=_positive, default=64, help="images at a time in each process (default: 64)"
    )
    evaluate.add_argument(
        "--per-class", action="store_true", help="show each class as well, from the worst to the best"
    )
    evaluate.add_argument(
        "--tta", action="store_true", help="average the logits of each image and of its mirror image"
    )


def _export(commands: Any, shared: _Shared) -> None:
    export = _add(
        commands,
        "export",
        "write the verified ONNX bundle for a Jetson",
        "trainer export models:/resnet50-imagenet@candidate --out bundle",
        shared.runs, shared.json,
    )  # fmt: skip
    export.add_argument("model", metavar="MODEL", help="models:/NAME@alias or models:/NAME/VERSION")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")


def _sync(commands: Any, shared: _Shared) -> None:
    sync = _add(
        commands,
        "sync",
        "bring MLflow up to date with a run's journal",
        "trainer sync runs/digits-1a2b3c4d5e",
    )
    sync.add_argument("folder", metavar="RUN", type=Path, help="the run's folder")
    sync.add_argument("--follow", action="store_true", help="go on until the run ends")


def _estimate(commands: Any, shared: _Shared) -> None:
    estimate = _add(
        commands,
        "estimate",
        "what a recipe will take on a rented machine: hours, dollars, and what binds",
        "trainer estimate rn50-onecycle --instance g5.12xlarge --price 1.60",
        shared.recipe, shared.json,
    )  # fmt: skip
    estimate.add_argument("--instance", metavar="NAME", help="as AWS calls it (default: all that are known)")
    estimate.add_argument(
        "--data", type=Path, metavar="DIR", help="a prepared data set (default: ImageNet as published)"
    )
    estimate.add_argument(
        "--images-per-second", type=_above_zero, metavar="N",
        help="of one GPU, as `trainer bench train` measures them (default: predicted)",
    )  # fmt: skip
    estimate.add_argument("--price", type=_above_zero, metavar="USD", help="of an hour (default: on demand)")
    estimate.add_argument(
        "--disk-mb", type=_above_zero, default=125.0, metavar="N", help="a second (default: 125, gp3)"
    )
    estimate.add_argument(
        "--disk-iops", type=_above_zero, default=3000.0, metavar="N",
        help="reads a second (default: 3,000, gp3)",
    )  # fmt: skip


def _summary(commands: Any, shared: _Shared) -> None:
    summary = _add(
        commands,
        "summary",
        "what a recipe's network is made of: layers, parameters, and multiply-adds for an image",
        "trainer summary rn50-baseline",
        shared.recipe, shared.json,
    )  # fmt: skip
    summary.add_argument(
        "--classes", type=_positive, default=1000, metavar="N", help="of the data set (default: 1,000)"
    )


def _bench(commands: Any, shared: _Shared) -> None:
    bench = _add(
        commands,
        "bench",
        "measure this machine, as ratios of one run",
        "trainer bench train rn50-baseline --json",
    )
    kinds = bench.add_subparsers(metavar="WHAT", required=True, dest="what")
    train = _add(
        kinds,
        "train",
        "images/s of training: the device alone, fed with JPEGs, the feeding alone, a plain loop",
        "trainer bench train rn50-baseline --steps 50",
        shared.recipe, shared.device, shared.decode, shared.json,
    )  # fmt: skip
    train.add_argument(
        "--profile", type=Path, metavar="FILE",
        help="write a Chrome trace of five steps, for ui.perfetto.dev",
    )  # fmt: skip
    loop = _add(
        kinds,
        "loop",
        "`trainer train` with journal and checkpoints, against nothing but its steps",
        "trainer bench loop digits --device cpu",
        shared.recipe, shared.device, shared.json,
    )  # fmt: skip
    for one, steps, rounds in ((train, 50, 3), (loop, 10, 60)):
        one.add_argument(
            "--data", type=Path, metavar="DIR",
            help="a prepared data set (default: generated photos of ImageNet's size)",
        )  # fmt: skip
        one.add_argument(
            "--steps", type=_positive, default=steps, help=f"timed steps of each turn (default: {steps})"
        )
        one.add_argument(
            "--rounds", type=_positive, default=rounds, help=f"turns of each (default: {rounds})"
        )
    loader = _add(
        kinds,
        "loader",
        "making training batches: ours, the same with another seed (what chance does), and its peers",
        "trainer bench loader --sample 4096 --json",
        shared.device, shared.scratch, shared.json,
    )  # fmt: skip
    what = loader.add_mutually_exclusive_group(required=True)
    what.add_argument("data", type=Path, nargs="?", metavar="DIR", help="a prepared data set")
    what.add_argument("--sample", type=_positive, metavar="N", help="generated photos of ImageNet's size")
    loader.add_argument("--batch-size", type=_positive, default=128, help="images at a time (default: 128)")
    loader.add_argument(
        "--images", type=_positive, default=4096, help="timed in each turn, at least (default: 4,096)"
    )
    loader.add_argument("--rounds", type=_positive, default=9, help="turns of each (default: 9)")
    loader.add_argument(
        "--shorter-side", action="append", type=_positive, metavar="PX",
        help="ours also on the photos as `prepare --shorter-side` stores them; several times for several sizes",
    )  # fmt: skip
    loader.add_argument(
        "--only", action="append", metavar="NAME",
        help="with this other one only (default: all that are installed)",
    )  # fmt: skip
    loader.add_argument(
        "--cold", action="store_true", help="have the system forget the files before each turn"
    )
    for name, summary in (
        ("prepare", "`trainer prepare imagenet` against tar and find"),
        ("check", "`trainer check --decode` against Pillow"),
    ):
        one = _add(kinds, name, summary, f"trainer bench {name}", shared.scratch, shared.json)
        one.add_argument("--images", type=_positive, default=20_000, help="how many (default: 20,000)")
    _add(
        kinds, "open", "opening a manifest as long as ImageNet's", "trainer bench open",
        shared.scratch, shared.json,
    )  # fmt: skip


def _add(parsers: Any, name: str, summary: str, example: str, *parents: ArgumentParser) -> ArgumentParser:
    parser: ArgumentParser = parsers.add_parser(
        name,
        parents=parents,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def _parent() -> ArgumentParser:
    return ArgumentParser(add_help=False)


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
