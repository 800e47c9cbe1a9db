"""What a network answered for each validation image: written at the end of a run, read by its report. Needs NumPy."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.errors import DataError
from trainer.files import atomic_path, read_regular

PREDICTIONS = "predictions.npz"  # in the run folder
MOST = 5  # classes that are kept of each answer: 50,000 images of 1,000 classes are 3 MB instead of 200


@dataclass(frozen=True)
class Predictions:
    """Answers for all validation images, in the order of the split."""

    labels: npt.NDArray[np.int64]  # (N,)
    classes: npt.NDArray[np.int64]  # (N, K): the K <= 5 most probable, from the first on
    probabilities: npt.NDArray[np.float64]  # (N, K), of `classes`, in 0..1
    label_probability: npt.NDArray[np.float64]  # (N,), of `labels`, in 0..1
    loss: npt.NDArray[np.float64]  # (N,), cross-entropy in nats
    brightness: npt.NDArray[np.float64]  # (N,), mean luma in 0..1 of what the network saw

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether the most probable class is the label, (N,)."""
        found: npt.NDArray[np.bool_] = self.classes[:, 0] == self.labels
        return found


def write_predictions(folder: Path, predictions: Predictions) -> None:
    """Write them into the run folder: all or nothing, whenever the power goes."""
    small = {"labels": np.int32, "classes": np.int32}
    arrays = {
        field.name: getattr(predictions, field.name).astype(small.get(field.name, np.float32))
        for field in fields(Predictions)
    }
    with atomic_path(folder / PREDICTIONS) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
        file.flush()
        os.fsync(file.fileno())


def read_predictions(folder: Path) -> Predictions | None:
    """The predictions in the run folder; None if there are none yet.

    Raises: DataError if the file is damaged.
    """
    path = folder / PREDICTIONS
    try:
        with np.load(io.BytesIO(read_regular(path)), allow_pickle=False) as stored:
            arrays = {
                field.name: stored[field.name].astype(
                    np.int64 if stored[field.name].dtype.kind == "i" else float
                )
                for field in fields(Predictions)
            }
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged archive raises what zipfile, zlib and NumPy's parser raise
        raise DataError(
            f"{path} cannot be read ({error}); remove it, and the report comes without predictions"
        ) from None
    found = Predictions(**arrays)
    if len({len(one) for one in arrays.values()}) != 1 or found.classes.shape != found.probabilities.shape:
        raise DataError(f"{path} does not fit together; remove it, and the report comes without predictions")
    return found
