"""The model card: what the model is, how good, made of what, and how to load it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from trainer import __version__
from trainer.dataset import IMAGENET, imagenet_classes
from trainer.publish._timm import TIMM_ALONE
from trainer.tracking import ModelInfo, RunHistory

TEMPLATE = "templates/model-card.md"
HUB_IMAGENET = "ILSVRC/imagenet-1k"  # as the Hub calls it
IMAGENET_TERMS = {
    "license": "other",
    "license_name": "imagenet-terms-of-access",
    "license_link": "https://image-net.org/download.php",
}
FEW = 30  # classes that are named in the card
TAGS = (
    "gpu",
    "world_size",
    "precision",
    "versions",
    "git_commit",
)  # of the run; no names and no paths are in them


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the card tells beside the model's own description."""

    repo: str  # OWNER/NAME
    space: str | None  # OWNER/NAME
    licence: str | None  # as the Hub calls it, such as mit
    of_imagenet: bool  # or of a subset of it
    with_timm: bool  # it has weights that timm loads
    with_photos: bool
    with_report: bool
    in_fp32: bool  # so it was measured
    digests: Mapping[str, str]  # SHA-256 by file


def model_card(info: ModelInfo, history: RunHistory, facts: CardFacts) -> str:
    """README.md with its front matter."""
    from huggingface_hub import ModelCard

    data = _card_data(info, history, facts)
    template = (files("trainer.publish") / TEMPLATE).read_text("utf-8")
    counts = dict(history.dataset.counts) if history.dataset else {}
    card = ModelCard.from_template(
        data,
        template_str=template,
        info=info,
        facts=facts,
        owner=facts.repo.partition("/")[0],
        name=facts.repo.rpartition("/")[2],
        size=info.preprocess["val_size"],
        resize=info.preprocess["val_resize"],
        measured=_measured(info),
        top1=f"{info.top1:.2%}",
        top5=f"{info.top5:.2%}",
        val_images=f"{counts['val']:,}" if "val" in counts else None,
        dataset=plain(history.dataset.name) if history.dataset else None,
        counts=", ".join(f"{count:,} {plain(name)}" for name, count in counts.items()),
        completeness=_completeness(info, counts),
        classes=[plain(name) for name in info.classes] if len(info.classes) <= FEW else [],
        architecture=plain(info.architecture),
        with_torchvision=info.architecture not in TIMM_ALONE,
        recipe=plain(info.recipe),
        settings={plain(key): plain(str(value)) for key, value in history.params.items()},
        tags={key: plain(history.tags[key]) for key in TAGS if history.tags.get(key)},
        version=__version__,
    )
    return f"{str(card).rstrip()}\n"


def plain(text: str) -> str:
    """`text` as it may stand between backticks: whatever somebody has called a class, it ends neither code nor line."""
    return (
        re.sub(r"[\x00-\x1f\x7f`\u2028\u2029]+", " ", text).encode("utf-8", "replace").decode().strip()[:200]
    )


def _measured(info: ModelInfo) -> bool:
    return not (math.isnan(info.top1) or math.isnan(info.top5))


def _card_data(info: ModelInfo, history: RunHistory, facts: CardFacts) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    whole = set(info.class_ids) == imagenet_classes().keys()
    name = (
        "ImageNet-1k" if whole else plain(history.dataset.name if history.dataset else "unknown") or "unknown"
    )
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=HUB_IMAGENET if whole else name,
            dataset_name=name,
            dataset_split="validation",
            metric_type="accuracy",
            metric_name=metric,
            metric_value=round(value, 6),
        )
        for metric, value in (("top-1 accuracy", info.top1), ("top-5 accuracy", info.top5))
    ]
    licence: dict[str, Any] = (
        {"license": facts.licence} if facts.licence else IMAGENET_TERMS if facts.of_imagenet else {}
    )
    return ModelCardData(
        **licence,
        library_name="timm" if facts.with_timm else "onnx",
        pipeline_tag="image-classification",
        tags=[
            "image-classification",
            "onnx",
            *(["timm", "safetensors", "pytorch"] if facts.with_timm else []),
        ],
        datasets=[HUB_IMAGENET] if whole else None,
        metrics=["accuracy"],
        model_name=facts.repo.rpartition("/")[2],
        eval_results=results if _measured(info) else None,
    )


def _completeness(info: ModelInfo, counts: Mapping[str, int]) -> str:
    """Whether all of ImageNet is there, which is known by its classes; any other data set is what it is."""
    if set(info.class_ids) != imagenet_classes().keys() or not {"train", "val"} <= counts.keys():
        return ""
    if (counts["train"], counts["val"]) == (IMAGENET.train, IMAGENET.val):
        return "complete: all images that were published"
    return f"not complete: published are {IMAGENET.train:,} train, {IMAGENET.val:,} val"
