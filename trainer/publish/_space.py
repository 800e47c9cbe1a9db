"""The folder that becomes a Space: the demo of the bundle, which needs nothing but what is in it.

README.md            the Space's front matter: Gradio's version, the file to run
app.py               `trainer.demo`, as it is
requirements.txt     its packages, without Gradio, which the Space brings
bundle/              as in the model's repository, which a Space could not read while it is private; the examples
                     are in golden/
SHA256SUMS           all of them
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.demo import APP, REQUIREMENTS
from trainer.demo import BUNDLE as DEMO_BUNDLE
from trainer.publish._card import IMAGENET_TERMS
from trainer.sealed import SUMS, seal

if TYPE_CHECKING:
    from trainer.publish._model_folder import Publication

SPACE_FILES = ("README.md", APP.name, REQUIREMENTS.name, f"{DEMO_BUNDLE}/", SUMS)
PYTHON = "3.12"
# Photos that come with scikit-learn, for a model whose own may not be shown.
PHOTOS = {  # file in sklearn/datasets/images, and where it is from, by the README there
    "china.jpg": "https://www.flickr.com/photos/danielbuechele/6061409035/",
    "flower.jpg": "https://www.flickr.com/photos/vultilion/6056698931/",
}


def write_space_folder(folder: Path, publication: Publication, bundle: Path) -> None:
    """Write all of it to the empty folder `folder`.

    Args:
        folder: where to.
        publication: what it is of; it names the Space.
        bundle: what `write_model_folder` has written to `bundle/`, on the same disk.

    Raises: OSError if the disk does not take it.
    """
    shutil.copytree(bundle, folder / DEMO_BUNDLE, copy_function=os.link)
    shutil.copyfile(APP, folder / APP.name)
    gradio, others = _packages(REQUIREMENTS.read_text("utf-8"))
    (folder / REQUIREMENTS.name).write_text("".join(f"{one}\n" for one in others))
    shown = _add_photos(folder / DEMO_BUNDLE) if publication.of_imagenet else ""
    (folder / "README.md").write_text(_readme(publication, gradio) + shown, "utf-8")
    seal(folder)


def _packages(requirements: str) -> tuple[str, list[str]]:
    """The oldest version of Gradio that will do, and all other requirements."""
    lines = [line for line in requirements.splitlines() if line and not line.startswith("#")]
    (gradio,) = (line for line in lines if line.startswith("gradio"))
    version = re.search(r">=\s*([\d.]+)", gradio)
    assert version, gradio
    whole = f"{version[1]}.0" if version[1].count(".") == 1 else version[1]
    return whole, [line for line in lines if line is not gradio]


def _readme(publication: Publication, gradio: str) -> str:
    from huggingface_hub.repocard_data import SpaceCardData

    licence: dict[str, Any] = {"license": publication.licence} if publication.licence else {}
    if publication.of_imagenet and not licence:
        licence = {"license": IMAGENET_TERMS["license"]}
    assert publication.space
    data = SpaceCardData(
        title=publication.space.rpartition("/")[2],
        emoji="🔍",
        colorFrom="blue",
        colorTo="gray",
        sdk="gradio",
        sdk_version=gradio,
        python_version=PYTHON,
        app_file=APP.name,
        pinned=False,
        models=[publication.repo],
        short_description="What is in the picture, and where",
        **licence,
    )
    return (
        f"---\n{data.to_yaml()}\n---\n\nThe demo of [{publication.repo}](https://huggingface.co/{publication.repo}): "
        "a picture in, the five likeliest classes out. It runs on the CPU, from the ONNX file in `bundle/`.\n"
    )


def _add_photos(bundle: Path) -> str:
    """Put scikit-learn's photos into the bundle, and say whose they are."""
    from importlib.resources import files

    (bundle / "golden").mkdir()
    for name in PHOTOS:
        (bundle / "golden" / name).write_bytes((files("sklearn.datasets.images") / name).read_bytes())
    (bundle / SUMS).unlink()  # it is a link: the other bundle's listing stays as it is
    seal(bundle)
    of = ", ".join(f"[{name}]({where})" for name, where in PHOTOS.items())
    return f"\nThe example photos come with scikit-learn: {of}, both Creative Commons Attribution 2.0.\n"
