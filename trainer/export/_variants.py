"""The forms of a network in a bundle, and what is known of each: `variants.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainer.export._bundle import VARIANTS
from trainer.files import read_json

BATCH1, HALF, INT8 = "model_batch1.onnx", "model_fp16.onnx", "model_int8.onnx"
FORMATS = {"torchscript": "model.torchscript.pt", "pt2": "model.pt2"}  # written for whoever asks

HEADINGS = ("file", "precision", "batch", "top-1", "whole frame", "difference", "MB", "CPU ms")
UNKNOWN = "-"  # in a cell

Format = Literal["torchscript", "pt2"]


@dataclass
class Variant:
    """One file of the network, and how it answers."""

    file: str
    precision: str  # fp32, fp16 or int8
    batch: int | None  # None: any
    verified_with: str  # what `max_difference` was measured with
    max_difference: (
        float  # of a probability from PyTorch's, over the golden images and all that were measured
    )
    bytes: int = 0
    cpu_ms: float | None = None  # for one image, on the CPU that wrote the bundle
    top1: dict[str, float] | None = None  # by way of preprocessing, in 0..1; None: not measured
    unknown_to_tensorrt_8_5: list[str] = field(default_factory=list)  # operators


@dataclass(frozen=True)
class Variants:
    """All forms of a network, as `variants.json` has them."""

    variants: tuple[Variant, ...]
    pytorch_top1: dict[str, float] | None  # of the network that they are compared with
    images: int  # validation images that top-1 was measured on …
    of: int  # … of so many
    cpu: str  # whose latencies they are
    left_out: tuple[str, ...]  # sentences about what is not there, or not measured

    def find(self, file: str) -> Variant | None:
        """The variant in `file`; None if there is none."""
        return next((one for one in self.variants if one.file == file), None)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "pytorch": {"precision": "fp32", "top1": self.pytorch_top1},
            "variants": [asdict(one) for one in self.variants],
            "validation_images": {"measured": self.images, "of": self.of},
            "cpu": self.cpu,
            "left_out": list(self.left_out),
        }

    def rows(self) -> list[tuple[str, ...]]:
        """A row of `HEADINGS` for PyTorch and each variant."""
        rows: list[tuple[str, ...]] = [
            ("PyTorch", "fp32", "any", *_shares(self.pytorch_top1), UNKNOWN, UNKNOWN, UNKNOWN)
        ]
        return rows + [
            (
                one.file,
                one.precision,
                str(one.batch or "any"),
                *_shares(one.top1),
                f"{one.max_difference:.1e}",
                f"{one.bytes / 1e6:.1f}",
                UNKNOWN if one.cpu_ms is None else f"{one.cpu_ms:.1f}",
            )
            for one in self.variants
        ]

    def notes(self) -> list[str]:
        """What one must know to read the rows."""
        return [
            f"Top-1 is of {self.images:,} of {self.of:,} validation images."
            if self.images
            else "Top-1 was not measured.",
            "Whole frame is the top-1 of what jetson-inference makes of an image.",
            "The difference is the largest of a probability from PyTorch's.",
            *(
                [
                    "INT8 is no smaller than FP32: its weights are floats, which TensorRT rounds for the engine."
                ]
                if self.find(INT8)
                else []
            ),
            f"CPU ms is one image on {self.cpu} and says nothing of a Jetson.",
            *self.left_out,
        ]


def read_variants(bundle: Path) -> Variants | None:
    """What a bundle says of its variants; None if there is none, or an earlier one."""
    try:
        described = read_json(bundle / VARIANTS)
        measured = described["validation_images"]
        return Variants(
            tuple(Variant(**one) for one in described["variants"]),
            described["pytorch"]["top1"],
            int(measured["measured"]),
            int(measured["of"]),
            str(described["cpu"]),
            tuple(map(str, described["left_out"])),
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _shares(top1: dict[str, float] | None) -> tuple[str, str]:
    return (f"{top1['validation']:.2%}", f"{top1['whole_frame']:.2%}") if top1 else (UNKNOWN, UNKNOWN)
