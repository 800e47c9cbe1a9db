"""How long `trainer demo` takes with ResNet-50 at 224 pixels: until the first answer, and for each one after it.

The weights are random, which takes as long. Asked over HTTP as the page does it: upload, call, wait for the answer.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import requests
import torch

from benchmarks._program import exit_code, make_parser
from trainer.cli import _args
from trainer.errors import ProcessesFailed
from trainer.export import export
from trainer.model import build
from trainer.performance import sample_photos
from trainer.preprocess import MEAN, STD
from trainer.processes import child_command
from trainer.tracking import LoadedModel, ModelInfo, Sample

CLASSES = tuple(f"class {index}" for index in range(1000))
PREPROCESS = {"val_resize": 256, "val_size": 224, "mean": list(MEAN), "std": list(STD)}
PATIENCE = 120.0  # seconds until a demo that does not answer has failed


@dataclass(frozen=True)
class DemoBench:
    """Result of `bench_demo`."""

    first_answer_seconds: float  # from the start of the command to the answer to the first picture
    answer_seconds: list[float]  # of each picture after it, from the beginning of its upload
    load_average: float  # of the last minute, before the start


def bench_demo(pictures: int) -> DemoBench:
    """Start `trainer demo`, ask for one picture, then for as many more.

    Raises: ProcessesFailed if the demo ends.
    """
    photos = sample_photos(pictures + 1)
    with tempfile.TemporaryDirectory() as folder:
        bundle = _make_bundle(Path(folder) / "bundle", photos[0])
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        load = os.getloadavg()[0]
        begun = time.perf_counter()
        command = child_command("demo", str(bundle), "--port", str(port))
        demo = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not _answers(port):
                if demo.poll() is not None or time.perf_counter() - begun > PATIENCE:
                    raise ProcessesFailed(demo.poll() or 1)
                time.sleep(0.05)
            _ask(port, photos[0])
            first = time.perf_counter() - begun
            seconds = []
            for photo in photos[1:]:
                asked = time.perf_counter()
                _ask(port, photo)
                seconds.append(time.perf_counter() - asked)
        finally:
            demo.terminate()
            demo.wait()
    return DemoBench(first, seconds, load)


def _make_bundle(folder: Path, photo: bytes) -> Path:
    torch.manual_seed(0)
    network = build("resnet50", len(CLASSES)).eval()
    info = ModelInfo("resnet50", CLASSES, CLASSES, PREPROCESS, "random", float("nan"), float("nan"), "none")
    samples = (Sample("0.JPEG", photo, 0),)
    model = LoadedModel(
        info, samples, source="random weights", registered=None, state_dict=network.state_dict()
    )
    return export(model, folder).folder


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/", timeout=10).ok
    except requests.ConnectionError:
        return False


def _ask(port: int, photo: bytes) -> None:
    api = f"http://127.0.0.1:{port}/gradio_api"
    (path,) = requests.post(f"{api}/upload", files={"files": ("0.jpg", photo)}, timeout=60).json()
    picture = {"path": path, "meta": {"_type": "gradio.FileData"}}
    event = requests.post(f"{api}/call/classify", json={"data": [picture]}, timeout=60).json()["event_id"]
    answer = requests.get(f"{api}/call/classify/{event}", timeout=60).text
    assert "event: complete" in answer, answer
    assert "confidences" in answer, answer


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = make_parser("demo", "Measure how fast `trainer demo` answers.")
    _args.add_json(parser)
    parser.add_argument(
        "--pictures",
        type=_args.positive_int,
        default=20,
        metavar="N",
        help="pictures after the first (default: 20)",
    )
    options = parser.parse_args(arguments)

    def work() -> int:
        result = bench_demo(options.pictures)
        if options.json:
            print(json.dumps(dataclasses.asdict(result)))
            return 0
        print(f"first answer     {result.first_answer_seconds:.1f} s after the start")
        print(
            f"each after it    {statistics.median(result.answer_seconds) * 1e3:.0f} ms (median; longest "
            f"{max(result.answer_seconds) * 1e3:.0f})"
        )
        print(f"load before      {result.load_average:.1f} processes")
        return 0

    return exit_code(work, "benchmarks.demo")


if __name__ == "__main__":
    raise SystemExit(main())
