"""What a report of 50,000 predictions of 1,000 classes takes: seconds, bytes, and how soon a browser shows it.

    python -m benchmarks.report [--images N] [--classes N] [--per-class N]

The answers are drawn at random, the photos are generated ones, ResNet-50 has random weights: neither changes the work.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
import zlib
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from trainer import metrics
from trainer.config import load_recipe
from trainer.dataset import Dataset, Split, imagenet_classes
from trainer.model import build
from trainer.performance._photos import sample_photos
from trainer.predictions import Predictions, write_predictions
from trainer.report import Run, write_report
from trainer.tracking import DatasetInfo, Journal, RunInfo, read_journal

PHOTOS = 200
EPOCHS, STEPS = 90, 1252  # of a run with 1,024 images a step


def random_predictions(images: int, classes: int) -> Predictions:
    """Answers that are right three times in four."""
    random = np.random.default_rng(0)
    labels = np.arange(images) % classes
    answers = np.argsort(random.random((images, min(40, classes))), axis=1)[:, :5]
    answers = (labels[:, None] + 1 + answers) % classes
    shares = np.sort(random.dirichlet([2, 0.6, 0.4, 0.3, 0.2, 0.5], images)[:, :5], axis=1)[:, ::-1]
    place = random.choice(6, images, p=[0.75, 0.1, 0.05, 0.02, 0.02, 0.06])
    inside = np.flatnonzero(place < 5)
    answers[inside, place[inside]] = labels[inside]
    own = np.where(place < 5, shares[np.arange(images), np.minimum(place, 4)], 1e-3)
    return Predictions(labels, answers, shares, own, -np.log(own), random.random(images))


def photo_dataset(root: Path, images: int, classes: int) -> Dataset:
    """A data set of so many validation images, which are few files called many times."""
    photos, rows = sample_photos(PHOTOS), []
    names = imagenet_classes()
    ids = tuple(sorted(names))[:classes]
    for number, photo in enumerate(photos):
        (root / f"{number}.JPEG").write_bytes(photo)
    for at in range(images):
        photo = photos[at % PHOTOS]
        rows.append((at % classes, 500, 375, len(photo), zlib.crc32(photo), f"{at % PHOTOS}.JPEG".encode()))
    kind = [
        ("label", "<u4"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("bytes", "<u4"),
        ("crc32", "<u4"),
        ("path", "S64"),
    ]
    split = Split(root, np.array(rows, kind))
    return Dataset("photos", root, ids, tuple(names[one] for one in ids), split, split, "0" * 64)


def write_journal(folder: Path, images: int, classes: int) -> None:
    """90 epochs, a point every 50 steps."""
    log = Journal(folder)
    counts = {"train": 1_281_167, "val": images, "classes": classes}
    info = DatasetInfo("imagenet", "0" * 64, "/data/imagenet", counts)
    log.start(
        RunInfo("imagenet", "imagenet", {"global_batch": 1024, "epochs": EPOCHS}, {"gpu": "none"}, info)
    )
    for step in range(50, EPOCHS * STEPS + 1, 50):
        at = step / (EPOCHS * STEPS)
        values = {metrics.TRAIN_LOSS: 7 - 5 * at, metrics.TRAIN_TOP1: 0.7 * at, metrics.TRAIN_TOP5: 0.9 * at}
        log.log(
            step, values | {metrics.LR: 0.4 * (1 - at), metrics.THROUGHPUT: 800.0, metrics.DATA_WAIT: 0.02}
        )
    for epoch in range(1, EPOCHS + 1):
        accuracy = {metrics.VAL_TOP1: 0.75 * epoch / EPOCHS, metrics.VAL_TOP5: 0.9, metrics.VAL_LOSS: 2.0}
        log.log(epoch * STEPS, accuracy | {metrics.EPOCH: epoch, metrics.EVALUATION_SECONDS: 60.0})
    log.finish("finished")


def seconds_to_show(page: Path) -> float | None:
    """Until Chromium has loaded and drawn it, the median of five; None where there is none."""
    chromium = shutil.which("chromium")
    try:
        sync_api = import_module("playwright.sync_api")
    except ImportError:
        return None
    if not chromium:
        return None
    measured = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(5):
            window = browser.new_page(viewport={"width": 1440, "height": 900})
            begun = time.perf_counter()
            window.goto(page.as_uri())
            window.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            measured.append(time.perf_counter() - begun)
            window.close()
        browser.close()
    return float(np.median(measured))


def main() -> None:
    """Measure, and print a line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--images", type=int, default=50_000, metavar="N", help="predictions (default: 50,000)"
    )
    parser.add_argument("--classes", type=int, default=1000, metavar="N", help="classes (default: 1,000)")
    parser.add_argument(
        "--per-class", type=int, default=0, metavar="N", help="as of trainer report (default: 0)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, data = Path(name, "imagenet-0123456789"), Path(name, "data")
        folder.mkdir()
        data.mkdir()
        dataset = photo_dataset(data, options.images, options.classes)
        write_journal(folder, options.images, options.classes)
        write_predictions(folder, random_predictions(options.images, options.classes))
        network = build("resnet50", options.classes).eval()
        begun, spent = time.perf_counter(), 0.0

        def passes(images: torch.Tensor) -> torch.Tensor:
            nonlocal spent
            at = time.perf_counter()
            logits: torch.Tensor = forward(images)
            spent += time.perf_counter() - at
            return logits

        forward, network.forward = network.forward, passes
        run = Run(folder, read_journal(folder), load_recipe("rn50-75"), dataset.class_names, dataset)
        report = write_report(run, folder / "report", per_class=options.per_class, network=lambda: network)
        took = time.perf_counter() - begun
        files = {path.name: path.stat().st_size for path in report.folder.rglob("*") if path.is_file()}
        result = {
            "seconds": round(took, 1),
            "of that inference": round(spent, 1),
            "report.html MB": round(files["report.html"] / 1e6, 2),
            "all files MB": round(sum(files.values()) / 1e6, 2),
            "predictions.npz MB": round((folder / "predictions.npz").stat().st_size / 1e6, 2),
            "seconds to show": seconds_to_show(report.page),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
