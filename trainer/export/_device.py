"""The programs of a bundle that run on the device: trainer/export/device/, as they are."""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path

NAMES = ("build_engine.sh", "classify.py", "run_jetson_inference.sh", "verify.py")


def write_device_programs(folder: Path) -> None:
    """Copy them to the bundle that is being written to `folder`. Raises: OSError."""
    for name in NAMES:
        with as_file(files("trainer.export").joinpath("device", name)) as program:
            shutil.copyfile(program, folder / name)
        (folder / name).chmod(0o755)
