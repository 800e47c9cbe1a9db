"""How near the ONNX files of a bundle are to PyTorch, and how long an export takes.

    python -m benchmarks.export parity [--seeds N]
    python -m benchmarks.export time [--network NAME] [--images N]

`parity`: random weights of each seed, BatchNorms that have seen photos, ResNet-50 of 1,000 classes at 224 pixels, the
same with BlurPool, and the network of docs/recipes.md; batches of 1, 2 and 7. `time`: one export, without INT8 and with
it, and what one validation image costs. Photos are generated ones: that changes nothing of the work.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from trainer.dataset import Dataset, Split
from trainer.export import BundleImages, export, to_input, to_onnx
from trainer.export._bundle import open_session, run
from trainer.export._graph import to_batch1, to_half
from trainer.model import build
from trainer.preprocess import MEAN, STD
from trainer.tracking import LoadedModel, ModelInfo, Sample

CLASSES, SIZE = 1000, 224
BATCHES = (1, 2, 7)
NETWORKS = ("resnet50", "resnet50_blurpool", "benchmarks.export:TwoPaths")
PREPROCESS = {"val_resize": 256, "val_size": SIZE, "mean": list(MEAN), "std": list(STD)}


class TwoPaths(torch.nn.Module):
    """The network of one's own in docs/recipes.md."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fine = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.coarse = torch.nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.norm = torch.nn.BatchNorm2d(16)
        self.classifier = torch.nn.Linear(16, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From (N, 3, H, W) to (N, num_classes)."""
        both = torch.cat([self.fine(images), self.coarse(images)], dim=1)
        logits: torch.Tensor = self.classifier(self.norm(both).relu().mean(dim=(2, 3)))
        return logits


def photo(seed: int, width: int = 500, height: int = 375) -> bytes:
    """A JPEG of ImageNet's usual size: smooth colours with some grain."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = random.integers(-20, 21, pixels.shape)
    file = io.BytesIO()
    Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def images(first: int, count: int) -> npt.NDArray[np.float32]:
    """What a network sees of some photos, (N, 3, 224, 224)."""
    return np.stack([to_input(photo(first + index), PREPROCESS) for index in range(count)])


def network_of(name: str, seed: int) -> torch.nn.Module:
    """Random weights, and BatchNorms that do something: drawn scales, and the statistics of eight photos."""
    torch.manual_seed(seed)
    network = build(name, CLASSES).to(memory_format=torch.contiguous_format)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # torch: None is the plain mean
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, std=0.1)
    with torch.no_grad():
        network.train()(torch.from_numpy(images(1000 * seed, 8)))
    return network.eval()


def parity(seeds: int) -> None:
    """Print a line for each network: the largest differences of a probability over seeds and batches."""
    for name in NETWORKS:
        largest = {"model.onnx": 0.0, "model_batch1.onnx": 0.0, "model_fp16.onnx": 0.0}
        surest = 0.0
        for seed in range(seeds):
            network = network_of(name, seed)
            inputs = images(1000 * seed + 100, max(BATCHES))
            with torch.inference_mode():
                expected = network(torch.from_numpy(inputs)).softmax(dim=1).numpy()
            surest = max(surest, float(expected.max()))
            with tempfile.TemporaryDirectory() as folder:
                files = {one: Path(folder, one) for one in largest}
                to_onnx(network, SIZE, files["model.onnx"])
                to_batch1(files["model.onnx"], files["model_batch1.onnx"])
                to_half(files["model.onnx"], files["model_fp16.onnx"])
                for one, path in files.items():
                    session = open_session(path)
                    for batch in BATCHES if "batch1" not in one else BATCHES[:1]:
                        off = np.abs(run(session, inputs[:batch]) - expected[:batch]).max()
                        largest[one] = max(largest[one], float(off))
        parameters = sum(weight.numel() for weight in network.parameters())
        line = {"network": name, "parameters": parameters, "seeds": seeds, "largest_probability": surest}
        print(json.dumps({**line, "largest_difference": largest}), flush=True)


def measure_time(name: str, count: int) -> None:
    """Print seconds of an export without a data set, and with one of `count` validation images."""
    network = network_of(name, 0)
    ids = tuple(f"n{index:08d}" for index in range(CLASSES))
    samples = tuple(Sample(f"{seed}.JPEG", photo(seed), seed) for seed in range(8))
    info = ModelInfo(name, ids, ids, PREPROCESS, "none", 0.0, 0.0, dataset_digest="0" * 64)
    model = LoadedModel(info, samples, "benchmark", None, dict(network.state_dict()))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        dataset = BundleImages(_dataset(root, ids, count), PREPROCESS)
        for label, given in (("without INT8", None), ("with INT8", dataset)):
            began, spent = time.perf_counter(), time.process_time()
            bundle = export(model, root / label, images=given)
            took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - spent}
            print(json.dumps({"network": name, "export": label, **took, "bytes": bundle.size}), flush=True)
            print((root / label / "README.txt").read_text(), flush=True)


def _dataset(root: Path, ids: tuple[str, ...], count: int) -> Dataset:
    """256 training images and `count` validation images, 64 photos by turns."""
    photos = [photo(seed) for seed in range(64)]
    rows = []
    for index in range(max(256, count)):
        data = photos[index % len(photos)]
        path = f"{index}.JPEG"
        (root / path).write_bytes(data)
        rows.append((index % len(ids), 500, 375, len(data), zlib.crc32(data), path.encode()))
    kind = [
        ("label", "<u4"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("bytes", "<u4"),
        ("crc32", "<u4"),
        ("path", "S64"),
    ]
    split = Split(root, np.array(rows, kind))
    chosen = split.take(np.arange(count))
    return Dataset("photos", root, ids, ids, split, chosen, "0" * 64)


def main() -> None:
    """Measure, and print lines of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("parity", "time"))
    parser.add_argument("--seeds", type=int, default=8, metavar="N", help="draws of weights (default: 8)")
    parser.add_argument("--network", default=NETWORKS[0], metavar="NAME", help="to time (default: resnet50)")
    parser.add_argument("--images", type=int, default=64, metavar="N", help="validation images (default: 64)")
    options = parser.parse_args()
    if options.what == "parity":
        parity(options.seeds)
    else:
        measure_time(options.network, options.images)


if __name__ == "__main__":
    main()
