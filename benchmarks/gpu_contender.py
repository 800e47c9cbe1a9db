"""Training on a GPU in a process of its own, with one of the trainer's settings undone: what it is worth.

    python -m benchmarks.gpu_contender --precision fp16 --batch 256 --without cudnn-search
    python -m benchmarks.gpu_contender --precision fp16 --batch 256 --without blocking-sync --photos DIR

Both settings are made before the first use of a GPU and cannot be changed after it (`trainer.gpu.set_up`), so they
cannot be measured against each other in one process. Prints images/s and processors at work as JSON.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks._program import exit_code, make_parser
from trainer import gpu
from trainer.config import Execution, load_recipe
from trainer.dataloader import Batch
from trainer.dataset import open_dataset
from trainer.distributed import World
from trainer.performance import Trial, fixed_batch, repeat_images
from trainer.training import make_loader

SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; exit 0, or 2 with one sentence."""
    parser = make_parser(
        "gpu_contender", "Training without one of the settings made before the first use of a GPU."
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp16")
    parser.add_argument("--batch", type=int, default=256, metavar="N", help="images at a time (default: 256)")
    parser.add_argument("--size", type=int, default=224, metavar="PX", help="side of a crop (default: 224)")
    parser.add_argument("--without", choices=("cudnn-search", "blocking-sync"), help="setting to leave out")
    parser.add_argument(
        "--photos", type=Path, metavar="DIR", help="prepared data set to feed (default: one fixed batch)"
    )
    options = parser.parse_args(arguments)

    def work() -> int:
        settings = [f"global_batch={options.batch}", f"precision={options.precision}"]
        recipe = load_recipe("rn50-baseline", [*settings, f"preprocess.train_size={options.size}"])
        device = torch.device("cpu")
        if options.device == "cuda":
            device = torch.device("cuda", 0)
            if options.without == "blocking-sync":
                torch.backends.cudnn.benchmark = True
                torch.cuda.set_device(device)
            else:
                gpu.set_up(device)
                torch.backends.cudnn.benchmark = options.without != "cudnn-search"
        world = World(0, 1, device)
        trial = Trial(recipe, world)
        batches: Iterator[Batch] = itertools.repeat(fixed_batch(recipe, world))
        trial.run(batches, steps=1)
        if options.photos:
            photos = repeat_images(open_dataset(options.photos).train, 1 << 20)
            batches = make_loader(photos, recipe, world, Execution()).batches(first_step=0, last_step=2**30)
        begun, worked = time.perf_counter(), time.process_time()
        result = trial.run(batches, steps=2**30, seconds=SECONDS)
        cores = (time.process_time() - worked) / (time.perf_counter() - begun)
        print(json.dumps({"images_per_second": result.images_per_second, "busy_cores": cores}))
        return 0

    return exit_code(work, "gpu_contender")


if __name__ == "__main__":
    raise SystemExit(main())
