"""The folder that becomes a repository of the Hub.

README.md            the model card
config.json          timm's description of network and preprocessing …
model.safetensors    … and the weights, by torchvision's names; both only where timm has the network
bundle/              what `trainer export` writes; without golden/ where the photos may not be handed on
report.html          what `trainer report` has written, and its other pages; only if asked for: it has photos and paths
SHA256SUMS           all of them

Each file is written here or copied by its name; nothing else of a run folder gets into it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.export import export
from trainer.publish._card import CardFacts, model_card
from trainer.publish._photos import of_imagenet
from trainer.publish._timm import CONFIG, LAYERS, WEIGHTS, known_to_timm, timm_config
from trainer.sealed import SUMS, seal, sha256
from trainer.tracking import LoadedModel, Origin, write_weights

CARD, BUNDLE = "README.md", "bundle"
REPORT = "report"  # in a run folder
PAGES = ("report.html", "mistakes_by_class.html", "label_errors.html")  # in it; the first leads to the others
MODEL_FILES = (CARD, CONFIG, WEIGHTS, f"{BUNDLE}/", *PAGES, SUMS)


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A model and how it shall be published."""

    model: LoadedModel
    origin: Origin
    repo: str  # OWNER/NAME
    space: str | None  # OWNER/NAME
    licence: str | None  # as the Hub calls it, such as mit
    photos: bool  # photos of its data set may be shown
    report: bool = False  # the report of its run may be shown, and is there
    ready: Path | None = None  # a sound bundle of it, whose files of the network are taken

    @property
    def with_timm(self) -> bool:
        """Whether timm and torchvision load the weights by the names they have here."""
        return known_to_timm(self.model.info.architecture)

    @property
    def of_imagenet(self) -> bool:
        """Whether it was trained on photos of ImageNet."""
        return of_imagenet(self.model.info.class_ids)


def report_pages(origin: Origin) -> list[Path]:
    """The pages of the run's report, as far as they are there."""
    folder = origin.run / REPORT if origin.run else None
    return [folder / name for name in PAGES if (folder / name).is_file()] if folder else []


def write_model_folder(folder: Path, publication: Publication) -> None:
    """Write all of it to the empty folder `folder`.

    Raises: ExportError if the model cannot be exported or its weights are not numbers; OSError if the disk does not
        take it.
    """
    model, info = publication.model, publication.model.info
    # A path of this machine is nobody's business.
    named = model if model.registered else replace(model, source=Path(model.source).name)
    export(named, folder / BUNDLE, with_photos=publication.photos, ready=publication.ready)
    digests = {}
    if publication.with_timm:
        write_weights(folder / WEIGHTS, model.state_dict)
        digests[WEIGHTS] = sha256(folder / WEIGHTS)
        features = int(model.state_dict[f"{LAYERS[info.architecture][1]}.weight"].shape[1])
        config = timm_config(info, features, publication.licence)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    digests[f"{BUNDLE}/model.onnx"] = sha256(folder / BUNDLE / "model.onnx")
    if publication.report:
        for page in report_pages(publication.origin):
            shutil.copyfile(page, folder / page.name)
    facts = CardFacts(
        repo=publication.repo,
        space=publication.space,
        licence=publication.licence,
        of_imagenet=publication.of_imagenet,
        with_timm=publication.with_timm,
        with_photos=publication.photos,
        with_report=publication.report,
        in_fp32=model.registered is not None,
        digests=digests,
    )
    (folder / CARD).write_text(model_card(info, publication.origin.history, facts), "utf-8")
    seal(folder)
