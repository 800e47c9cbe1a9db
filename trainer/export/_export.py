"""From a model to a bundle that was compared with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from trainer.errors import ExportError
from trainer.export._bundle import EXPECTED, INPUTS, LABELS, MODEL, PARTIAL, PROBABILITIES, TEXT, check_out
from trainer.export._device import write_device_programs
from trainer.export._forms import Forms
from trainer.export._images import BundleImages
from trainer.export._preprocess import to_input
from trainer.export._texts import write_texts
from trainer.export._variants import Format
from trainer.files import write_json
from trainer.model import rebuild
from trainer.sealed import SUMS, safe_names, seal
from trainer.tracking import LoadedModel, Sample


@dataclass(frozen=True)
class Bundle:
    """A bundle that was written and compared with its model."""

    folder: Path
    source: str  # the model: models:/NAME/VERSION, or a path
    samples: int  # number of golden photos
    max_difference: (
        float | None
    )  # largest of a probability, ONNX Runtime against the model; None: it was there before
    size: int  # bytes, all files
    left_out: tuple[str, ...] = ()  # sentences about what it lacks, and why


def export(
    model: LoadedModel,
    out: Path,
    *,
    with_photos: bool = True,
    images: BundleImages | None = None,
    missing: str = "no data set was given",
    count: int | None = None,
    formats: Sequence[Format] = (),
    device: torch.device | None = None,
    ready: Path | None = None,
) -> Bundle:
    """Write `model` as a bundle to the new folder `out`: whole, or not at all.

    Args:
        model: a model with samples.
        out: a folder that is empty or does not exist yet.
        with_photos: write the samples, and what is made of them, to `golden/`; they are compared in any case.
        images: its data set, without which there is neither INT8 nor an accuracy of each variant.
        missing: why there are no `images`.
        count: validation images to measure, spread evenly; None: all; 0: none, and so no INT8.
        formats: other forms to write.
        device: where the validation images are answered; None: the CPU.
        ready: a sound bundle of this model, whose files of the network in floats are taken instead of made.

    Raises: ExportError if `out` cannot be written, the model has no samples, or ONNX Runtime and PyTorch disagree;
        DataError if an image of the data set is not as it was prepared.
    """
    if not model.samples:
        raise ExportError(
            f"{model.source} has no sample images to compare with; put its data set where it was, or train it again"
        )
    network = rebuild(model.info.architecture, len(model.info.classes), model.state_dict)
    network.to(memory_format=torch.contiguous_format)
    inputs = np.stack([_golden_input(model, sample) for sample in model.samples])
    with torch.inference_mode():
        probabilities = network(torch.from_numpy(inputs)).float().softmax(dim=1).numpy()
    forms = Forms(network, model.source, inputs, probabilities, device or torch.device("cpu"))
    with whole_or_nothing(out) as folder:
        if with_photos:
            _write_golden(folder, model, inputs, probabilities)
        names = [name.replace("\n", " ") for name in model.info.classes]  # one a line
        (folder / LABELS).write_text("".join(f"{name}\n" for name in names), **TEXT)
        variants = forms.write(
            folder, images=images, missing=missing, count=count, formats=formats, ready=ready
        )
        write_texts(folder, model, variants, with_photos=with_photos)
        write_device_programs(folder)
        seal(folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    fp32 = variants.find(MODEL)
    assert fp32, "it is written or refused"
    return Bundle(out, model.source, len(model.samples), fp32.max_difference, size, variants.left_out)


def _golden_input(model: LoadedModel, sample: Sample) -> npt.NDArray[np.float32]:
    try:
        return to_input(sample.jpeg, model.info.preprocess)
    except (OSError, SyntaxError, ValueError) as error:
        raise ExportError(
            f"the sample {sample.name} of {model.source} cannot be decoded ({error}); use another version"
        ) from None


def _write_golden(
    folder: Path, model: LoadedModel, inputs: npt.NDArray[np.float32], probabilities: npt.NDArray[np.float32]
) -> None:
    info = model.info
    photos = [f"golden/{name}" for name in safe_names([sample.name for sample in model.samples])]
    (folder / "golden").mkdir()
    for photo, sample in zip(photos, model.samples, strict=True):
        (folder / photo).write_bytes(sample.jpeg)
    np.save(folder / INPUTS, inputs)
    np.save(folder / PROBABILITIES, probabilities)
    expected = [
        {
            "photo": photo,
            "name": sample.name,
            "label": info.classes[sample.label],
            "top5": [
                {"class": info.classes[i], "index": int(i), "probability": float(of_photo[i])}
                for i in np.argsort(-of_photo, kind="stable")[:5]
            ],
        }
        for photo, sample, of_photo in zip(photos, model.samples, probabilities, strict=True)
    ]
    write_json(folder / EXPECTED, expected)


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """A hidden folder to write into; what is in it goes to `out` if all goes well, and is removed otherwise.

    It becomes `out`, or lies in it where that exists: a mount point or somebody's current folder cannot be replaced.
    """
    try:
        check_out(out)
        there, beside = out.is_dir(), out.absolute().with_name(f".{out.absolute().name}{PARTIAL}")
        partial = out / PARTIAL if there else beside
        for left in (partial, beside):  # of an export that was killed
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            if there:
                # The sums come last: they make it a bundle.
                for path in sorted(partial.iterdir(), key=lambda path: path.name == SUMS):
                    path.replace(out / path.name)
            else:
                partial.replace(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ExportError(
            f"{out} cannot be written: {error.strerror or error}; choose another --out"
        ) from None
