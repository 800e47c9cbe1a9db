"""What a bundle says of itself: README.txt, preprocess.json, variants.json."""

from __future__ import annotations

import math
from importlib.resources import files
from pathlib import Path
from typing import Any

from trainer.export._bundle import LABELS, MODEL, PREPROCESS, TEXT, VARIANTS
from trainer.export._variants import HEADINGS, Variants
from trainer.files import write_json
from trainer.io_names import INPUT_NAME, OUTPUT_NAME
from trainer.preprocess import ROUNDING
from trainer.sealed import sha256
from trainer.tracking import LoadedModel

README = "README.txt"
GOLDEN = """\
golden/ has photos, the input made of each, and the answers of the PyTorch model. An engine is right
if its answers to golden/inputs.npy are close to golden/probabilities.npy (1e-5 here in float32, about
1e-2 in half precision) and the first class of each is the one in golden/expected.json.
"""
NO_GOLDEN = """\
There is no golden/ here, for its photos may not be handed on: `trainer export` writes it for whoever has the model.
"""


def write_texts(folder: Path, model: LoadedModel, variants: Variants, *, with_photos: bool) -> None:
    """Write them into the bundle in `folder`."""
    write_json(folder / PREPROCESS, _preprocess(model, variants, sha256(folder / LABELS)))
    write_json(folder / VARIANTS, variants.as_dict())
    info, registered = model.info, model.registered
    title = f"{registered.name} version {registered.version}" if registered else model.source
    title += ", for NVIDIA Jetson"
    known = not (math.isnan(info.top1) or math.isnan(info.top5))
    template = files("trainer.export").joinpath(f"templates/{README}").read_text("utf-8")
    text = template.format(
        title=title,
        line="=" * len(title),
        architecture=info.architecture,
        classes=len(info.classes),
        recipe=info.recipe,
        accuracy=f"top-1 {info.top1:.2%}, top-5 {info.top5:.2%} on the validation set, measured on these weights"
        if known
        else "not evaluated yet on the validation set",
        origin=f"MLflow run {registered.run_id}" if registered else "not registered in MLflow",
        size=int(info.preprocess["val_size"]),
        input=INPUT_NAME,
        output=OUTPUT_NAME,
        table=_table(variants),
        golden=GOLDEN if with_photos else NO_GOLDEN,
    )
    (folder / README).write_text(text, **TEXT)


def _table(variants: Variants) -> str:
    rows = [HEADINGS, *variants.rows()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*(line.rstrip() for line in lines), "", *variants.notes()])


def _preprocess(model: LoadedModel, variants: Variants, labels_sha256: str) -> dict[str, Any]:
    info, registered, size = model.info, model.registered, int(model.info.preprocess["val_size"])
    fp32 = variants.find(MODEL)
    top1 = fp32.top1 if fp32 and fp32.top1 else {}
    last = [
        "divide by 255, subtract mean, divide by std, channel by channel",
        "order as N, channel, row, column",
    ]
    steps = [
        "decode to RGB; EXIF rotation is ignored, alpha dropped, 16 bits become 8 by / 257, rounded",
        f"resize so that the shorter side has {info.preprocess['val_resize']} pixels, bilinear with "
        f"antialiasing; {ROUNDING}",
        f"crop {size} x {size} at the centre; left and top are half of the margin, halves rounded to even",
        *last,
    ]
    squash = [
        "decode to RGB",
        f"squash the whole frame to {size} x {size}: pixel (x, y) is that at x * width / {size}, y * height / {size}, "
        "rounded down (point sampling, as in c/tensorConvert.cu of jetson-inference)",
        *last,
    ]
    return {
        **info.preprocess,
        "class_ids": info.class_ids,
        "labels_sha256": labels_sha256,
        "input": {"name": INPUT_NAME, "shape": ["N", 3, size, size], "type": "float32"},
        "output": {
            "name": OUTPUT_NAME,
            "shape": ["N", len(info.classes)],
            "type": "float32",
            "is": "probabilities",
        },
        "steps": steps,
        "ways": {
            "validation": {
                "is": "as in training's validation",
                "steps": steps,
                "top1": top1.get("validation"),
            },
            "whole_frame": {
                "is": "as jetson-inference does",
                "steps": squash,
                "top1": top1.get("whole_frame"),
            },
            "measured_on": {
                "file": MODEL,
                "validation_images": variants.images,
                "of": variants.of,
                "not_measured": None if top1 else "; ".join(variants.left_out),
            },
        },
        "model": {
            "source": model.source,
            "name": registered.name if registered else None,
            "version": registered.version if registered else None,
            "run_id": registered.run_id if registered else None,
            "architecture": info.architecture,
            "recipe": info.recipe,
            "top1": None if math.isnan(info.top1) else info.top1,
            "top5": None if math.isnan(info.top5) else info.top5,
            "dataset_digest": info.dataset_digest,
        },
    }
