"""The network of a bundle in all its forms, each compared with PyTorch."""

from __future__ import annotations

import logging
import math
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from trainer.cpu import cpu_name
from trainer.errors import ExportError
from trainer.export._bundle import MODEL
from trainer.export._graph import to_batch1, to_half, to_onnx, unknown_to_tensorrt
from trainer.export._images import BundleImages
from trainer.export._parity import Network, Parity, largest_difference, latency, measure, on_device
from trainer.export._quantize import to_int8
from trainer.export._variants import BATCH1, FORMATS, HALF, INT8, Format, Variant, Variants

# Largest difference of a probability between ONNX Runtime and PyTorch on golden images. In half precision and INT8 it
# is that of device/verify.py: each device tries every form, and refuses the whole bundle for one.
ALLOWED = {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.25}
MOST_LOST = 0.01  # share of top-1 in 0..1 that half precision and INT8 may lose
CALIBRATION = 256  # training images that the ranges of INT8 are measured on
PYTORCH = "pytorch"
GOLDEN = "ONNX Runtime on the CPU"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Forms:
    """What is written in all its forms, and what it is compared with."""

    network: torch.nn.Module  # on the CPU, in eval mode, to logits; contiguous, as the files are
    source: str  # the model, for messages
    inputs: npt.NDArray[np.float32]  # golden ones (N, 3, H, W) …
    probabilities: npt.NDArray[np.float32]  # … and PyTorch's answers (N, classes)
    device: torch.device  # where the validation images are answered

    def write(
        self,
        folder: Path,
        *,
        images: BundleImages | None,
        missing: str,
        count: int | None,
        formats: Sequence[Format],
        ready: Path | None = None,
    ) -> Variants:
        """Write the forms to `folder`; the arguments are those of `export`.

        Raises: ExportError if one of float32 answers otherwise than PyTorch; DataError.
        """
        left_out: list[str] = []
        if not _taken(ready, folder, MODEL):
            to_onnx(self.network, self.inputs.shape[-1], folder / MODEL)
        if not _taken(ready, folder, BATCH1):
            to_batch1(folder / MODEL, folder / BATCH1)
        fp32, batch1 = (
            self._compared(folder / MODEL, "fp32"),
            self._compared(folder / BATCH1, "fp32", batch=1),
        )
        if not _taken(ready, folder, HALF):
            to_half(folder / MODEL, folder / HALF)
        found = [fp32, batch1, *self._if_close(folder / HALF, "fp16", left_out)]
        parity, total = Parity(), 0
        if images is None or count == 0:
            why = missing if images is None else "no validation images were to be measured"
            left_out.append(f"{INT8} is left out, and the accuracy of each variant is not known: {why}.")
        else:
            logger.info("the ranges of INT8 are measured on %d training images", CALIBRATION)
            to_int8(folder / MODEL, folder / INT8, images.for_calibration(CALIBRATION))
            found += self._if_close(folder / INT8, "int8", left_out)
            total = len(images.dataset.val)
            parity = self._measure(folder, [one for one in found if one is not batch1], images, count)
            batch1.top1 = fp32.top1
            for one in [one for one in found if not _is_accurate(one, fp32, left_out)]:
                (folder / one.file).unlink()
                found.remove(one)
        for one in found:
            one.bytes = (folder / one.file).stat().st_size
            if total:  # else nothing is measured: a bundle that is made again is the same, and published once
                one.cpu_ms = latency(folder / one.file, self.inputs[0])
            one.unknown_to_tensorrt_8_5 = unknown_to_tensorrt(folder / one.file)
        if fp32.unknown_to_tensorrt_8_5:
            left_out.append(
                f"TensorRT 8.5, that of JetPack 5, does not read {', '.join(fp32.unknown_to_tensorrt_8_5)}, by its "
                "list of operators."
            )
        found += [self._other(folder, format) for format in dict.fromkeys(formats)]
        return Variants(tuple(found), parity.top1(PYTORCH), parity.images, total, cpu_name(), tuple(left_out))

    def _compared(self, path: Path, precision: str, *, batch: int | None = None) -> Variant:
        difference = largest_difference(path, self.inputs, self.probabilities, batch1=batch == 1)
        if precision == "fp32":
            self._require_equal(difference, "ONNX")
        return Variant(path.name, precision, batch, GOLDEN, difference)

    def _require_equal(self, difference: float, form: str) -> None:
        if not difference <= ALLOWED["fp32"]:  # also when it is not a number
            raise ExportError(
                f"the {form} form of {self.source} answers otherwise than the model: a probability differs by "
                f"{difference:.2g}, {ALLOWED['fp32']:g} is allowed; nothing was written; report this with the run of "
                "the model"
            )

    def _if_close(self, path: Path, precision: str, left_out: list[str]) -> list[Variant]:
        """The form in `path`, or none, and no file, if it answers so differently that devices would refuse it."""
        variant = self._compared(path, precision)
        if variant.max_difference <= ALLOWED[precision]:
            return [variant]
        path.unlink()
        left_out.append(
            f"{path.name} is left out: on golden images a probability differs by {variant.max_difference:.2g}, "
            f"{ALLOWED[precision]:g} is allowed."
        )
        return []

    def _measure(
        self, folder: Path, found: Sequence[Variant], images: BundleImages, count: int | None
    ) -> Parity:
        """Top-1 of each variant, and its largest difference from PyTorch, over the validation images."""
        reference = _with_softmax(self.network).to(self.device)
        networks: dict[str, Network] = {PYTORCH: reference}
        for one in found:
            networks[one.file], by = on_device(folder / one.file, self.device)
            one.verified_with = by if by == GOLDEN else f"{GOLDEN}, golden images; {by}, validation images"
        total = len(images.dataset.val) if count is None else min(count, len(images.dataset.val))
        parity = measure(networks, images.for_validation(count), total, self.device)
        self.network.cpu()
        for one in found:
            one.top1 = parity.top1(one.file)
            one.max_difference = max(one.max_difference, parity.max_difference[one.file])
        return parity

    def _other(self, folder: Path, format: Format) -> Variant:
        """A form of torch's own, loaded back and compared."""
        path, images = folder / FORMATS[format], torch.from_numpy(self.inputs)
        with_softmax = _with_softmax(self.network)
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # torch's, that TorchScript is at its end
            if format == "torchscript":
                torch.jit.trace(with_softmax, images[:1]).save(str(path))  # type: ignore[no-untyped-call]
                loaded = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
            else:
                batch = torch.export.Dim("N", min=1)
                two = torch.zeros(2, *images.shape[1:])  # one would be taken for the only size there is
                torch.export.save(
                    torch.export.export(with_softmax, (two,), dynamic_shapes=({0: batch},)), path
                )
                loaded = torch.export.load(path).module()
            answers = [loaded(images), torch.cat([loaded(image[None]) for image in images])]
        difference = max(float(np.abs(answer.numpy() - self.probabilities).max()) for answer in answers)
        self._require_equal(difference, format)
        return Variant(path.name, "fp32", None, f"torch {torch.__version__}", difference, path.stat().st_size)


def _taken(ready: Path | None, folder: Path, file: str) -> bool:
    """Whether the file was there to be copied from the bundle `ready`."""
    if ready is None or not (ready / file).is_file():
        return False
    shutil.copyfile(ready / file, folder / file)
    return True


def _with_softmax(network: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.Sequential(network, torch.nn.Softmax(dim=1)).eval()


def _is_accurate(one: Variant, fp32: Variant, left_out: list[str]) -> bool:
    """Whether it may be deployed; it may not if no image could be read either."""
    if one.precision == "fp32":
        return True
    lost = fp32.top1["validation"] - one.top1["validation"] if fp32.top1 and one.top1 else math.nan
    if not lost <= MOST_LOST:
        left_out.append(
            f"{one.file} is left out: it loses {100 * lost:.1f} points of top-1, {100 * MOST_LOST:g} is allowed."
        )
    return lost <= MOST_LOST
