"""What the files of a bundle answer, compared with PyTorch: on golden images, and on the validation set."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from trainer.export._bundle import open_session, run
from trainer.export._images import Measured
from trainer.export._torch_graph import TorchGraph, UnknownOperator
from trainer.training import full_precision

WAYS = ("validation", "whole_frame")  # in which an image is prepared; see `to_both_inputs`
SAY_EVERY = 20.0  # seconds
TIMED = 5  # answers, of which the quickest counts

logger = logging.getLogger(__name__)

Network = Callable[
    [torch.Tensor], torch.Tensor
]  # (N, 3, H, W) images to (N, classes) probabilities, on one device


@dataclass
class Parity:
    """Answers for the validation images, by network."""

    images: int = 0
    right: dict[str, dict[str, int]] = field(default_factory=dict)  # images, by way
    max_difference: dict[str, float] = field(
        default_factory=dict
    )  # of a probability, from the first network's

    def top1(self, network: str) -> dict[str, float] | None:
        """Share of right answers by way, each in 0..1; None if nothing was measured."""
        if not self.images:
            return None
        return {way: right / self.images for way, right in self.right[network].items()}


def largest_difference(
    model: Path, inputs: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], *, batch1: bool = False
) -> float:
    """Largest difference of a probability in ONNX Runtime: all images at once, unless `batch1`, and one by one."""
    session = open_session(model)
    answers = [np.concatenate([run(session, image[None]) for image in inputs])]
    if not batch1:
        answers.append(run(session, inputs))
    return float(np.max([np.abs(answer - expected).max() for answer in answers]))  # NaN stays NaN


def measure(
    networks: Mapping[str, Network], batches: Iterable[Measured], total: int, device: torch.device
) -> Parity:
    """Accuracy of each of `networks`, and how far it is from the first.

    Args:
        networks: by name.
        batches: validation images.
        total: their number, to say how long it takes.
        device: where the networks are called.
    """
    parity = Parity(right={name: dict.fromkeys(WAYS, 0) for name in networks})
    parity.max_difference = dict.fromkeys(networks, 0.0)
    began = said = time.monotonic()
    with torch.inference_mode(), full_precision():
        for labels, cropped, whole_frame in batches:
            truth = torch.from_numpy(labels).to(device)
            # Photos of the network's own size are the same in both ways.
            same = np.array_equal(cropped, whole_frame)
            for way, inputs in zip(WAYS, (cropped, whole_frame), strict=True):
                if way == WAYS[0] or not same:
                    images = torch.from_numpy(inputs).to(device)
                    answers = {name: network(images) for name, network in networks.items()}
                expected = next(iter(answers.values()))
                for name, answer in answers.items():
                    parity.right[name][way] += int((answer.argmax(dim=1) == truth).sum())
                    difference = float((answer - expected).abs().max())
                    # Not max(): a difference that is not a number stays.
                    if not difference <= parity.max_difference[name]:
                        parity.max_difference[name] = difference
            parity.images += len(labels)
            now = time.monotonic()
            if now - said > SAY_EVERY:
                left = (now - began) / parity.images * (total - parity.images) / 60
                logger.info(
                    "%s of %s validation images are measured, about %.0f minute(s) left; --parity N measures fewer",
                    f"{parity.images:,}",
                    f"{total:,}",
                    left,
                )
                said = now
    return parity


def on_device(model: Path, device: torch.device) -> tuple[Network, str]:
    """The network of an ONNX file for this device, and in words what runs it.

    On a GPU it is torch that runs the graph. Where it does not know an operator, and on the CPU, it is ONNX Runtime.
    """
    if device.type == "cuda":
        try:
            return TorchGraph(
                model, device
            ), f"torch, operator by operator, on {torch.cuda.get_device_name(device)}"
        except UnknownOperator as unknown:
            logger.info("%s has %s, so ONNX Runtime runs it on the CPU, slowly", model.name, unknown)
    session = open_session(model)

    def network(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(run(session, images.cpu().numpy())).to(device)

    return network, "ONNX Runtime on the CPU"


def latency(model: Path, image: npt.NDArray[np.float32]) -> float:
    """Milliseconds for one image (3, H, W) in ONNX Runtime, on all cores of this machine's CPU."""
    session, times = open_session(model), []
    for _ in range(1 + TIMED):
        began = time.perf_counter()
        run(session, image[None])
        times.append(time.perf_counter() - began)
    return 1000 * min(times)
