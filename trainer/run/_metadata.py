"""Where, by what and with what a run was made, so that a number can be traced to its machine and code."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

from trainer import __version__, ranks
from trainer.config import Execution
from trainer.dataset import Dataset
from trainer.distributed import World
from trainer.run._plan import Plan, as_published
from trainer.tracking import MACHINES, DatasetInfo
from trainer.training import choose_precision


def run_tags(plan: Plan, world: World) -> dict[str, str]:
    """Tags of a run: its recipe, data set, code, versions and hardware."""
    return {
        "recipe": plan.recipe.name,
        "git_commit": git_commit(),
        "image": os.environ.get("TRAINER_IMAGE", "none"),
        "ngc": os.environ.get("NVIDIA_PYTORCH_VERSION", "none"),
        "gpu": device_name(world.device),
        "world_size": str(world.size),
        MACHINES: str(ranks.machines()),
        "precision": choose_precision(plan.recipe.precision, world.device).name,
        "dataset": plan.dataset.name,
        "dataset_digest": plan.dataset.digest,
        "val_digest": plan.dataset.val_digest,
        **({"dataset_completeness": told} if (told := as_published(plan.dataset)) else {}),
        "versions": f"trainer {__version__}, torch {torch.__version__}, python {platform.python_version()}",
    }


def execution_tags(execution: Execution) -> dict[str, str]:
    """Tags of what the machine decides, which may change when a run goes on elsewhere."""
    return {
        "batch_per_gpu": str(execution.batch_per_gpu),
        "compile": execution.compile,
        "decoder": str(execution.decoder),
    }


def dataset_info(dataset: Dataset) -> DatasetInfo:
    """The data set as it stands in MLflow."""
    counts = {"train": len(dataset.train), "val": len(dataset.val), "classes": len(dataset.classes)}
    return DatasetInfo(
        dataset.name,
        dataset.digest,
        str(dataset.root.resolve()),
        counts,
        dataset.val_digest,
        as_published(dataset),
    )


def device_name(device: torch.device) -> str:
    """The GPU's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def git_commit() -> str:
    """The commit of this code: given by the image, or asked of git in a checkout."""
    if commit := os.environ.get("TRAINER_GIT_COMMIT"):
        return commit
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()
