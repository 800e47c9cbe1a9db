"""Measurements of this package against other loaders, tools and bare loops, for its developers.

Not part of the wheel or the image. Each is a program with --help:

    python -m benchmarks.loader      training batches: ours, DALI's reader, torchvision, SPDL, WebDataset, LitData, FFCV
    python -m benchmarks.loop        the training loop with journal and checkpoints, against its bare steps
    python -m benchmarks.datasets    preparing, checking and opening a data set, against tar, find and Pillow
    python -m benchmarks.huggingface preparing Hugging Face's shards, against loops around `datasets` and `webdataset`
    python -m benchmarks.learning    training, against timm's train.py and torchvision's reference script
    python -m benchmarks.gpu_check   tests and measurements that need a GPU (scripts/gpu-check)
    python -m benchmarks.smoke       small measurements against wide margins (scripts/bench-smoke)
"""

import os

# Before torch is imported, as in the `trainer` command: OpenMP's threads sleep while they wait for each other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
