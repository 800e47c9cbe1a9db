"""The handwritten digits that scikit-learn carries, as a class-folder tree of JPEGs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from trainer.errors import DataError

UPSCALE = 4  # 8 x 8 pixels become 32 x 32: JPEG works in blocks of 8


def prepare_digits(out: Path) -> bool:
    """Write 1,437 training and 360 validation digits below `out`, stratified by class.

    `dataset.json` is written last: without it the data set is not complete and is made anew.

    Args:
        out: a new or empty folder, or one that an earlier call was interrupted in.

    Returns: whether anything had to be written.
    Raises: DataError if `out` holds something else or cannot be written.
    Source: UCI "Optical Recognition of Handwritten Digits", via sklearn.datasets.load_digits.
    """
    done, begun = out / "dataset.json", out / ".preparing-digits"
    try:
        if done.exists():
            if json.loads(done.read_text()).get("name") == "digits":
                return False
            raise DataError(f"{out} already holds another data set; give an empty folder with --out")
        if out.is_dir() and any(out.iterdir()) and not begun.exists():
            raise DataError(f"{out} is not empty and holds no digits; give an empty folder with --out")
        out.mkdir(parents=True, exist_ok=True)
        begun.touch()
        for part in ("train", "val"):
            shutil.rmtree(out / part, ignore_errors=True)
        about = {"name": "digits", "source": "sklearn.datasets.load_digits", "images": _write_images(out)}
        partial = out / ".dataset.json.partial"
        partial.write_text(json.dumps(about, indent=1) + "\n")
        os.replace(partial, done)
        begun.unlink()
    except (OSError, ValueError) as error:
        raise DataError(
            f"the digits cannot be written to {out}: {error}; check the path and the disk"
        ) from None
    return True


def _write_images(out: Path) -> dict[str, int]:
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    shades, labels = digits.images, digits.target  # (1797, 8, 8) in 0..16, (1797,)
    train, val = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    for part, chosen in (("train", train), ("val", val)):
        for index in chosen:
            folder = out / part / str(labels[index])
            folder.mkdir(parents=True, exist_ok=True)
            small = Image.fromarray((shades[index] * (255 / 16)).round().astype("uint8"))
            side = small.width * UPSCALE
            large = small.resize((side, side), Image.Resampling.BICUBIC).convert("RGB")
            large.save(folder / f"{index:04d}.jpeg", quality=95)
    return {"train": len(train), "val": len(val)}
