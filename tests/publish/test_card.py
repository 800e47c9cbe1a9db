"""The model card: what it says for programs and for people, and what it does not say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from tests.publish.conftest import info, origin
from trainer.dataset import IMAGENET, imagenet_classes
from trainer.publish._card import CardFacts, model_card
from trainer.tracking import ModelInfo, RunHistory

WORDS = tuple(imagenet_classes().values())


def card(described: ModelInfo, history: RunHistory, **changed: Any) -> tuple[dict[str, Any], str]:
    """The front matter, and the text."""
    facts = CardFacts(
        repo="ana/net",
        space="ana/demo",
        licence=None,
        of_imagenet=False,
        with_timm=True,
        with_photos=True,
        with_report=False,
        in_fp32=True,
        digests={"model.safetensors": "a" * 64},
    )
    _, front, text = model_card(described, history, replace(facts, **changed)).split("---\n", 2)
    return yaml.safe_load(front), text


def test_it_has_the_measured_accuracy_for_programs_and_for_people() -> None:
    front, text = card(info(), origin().history)
    (entry,) = front["model-index"]

    assert entry["name"] == "net"
    assert {one["name"]: one["value"] for one in entry["results"][0]["metrics"]} == {
        "top-1 accuracy": 0.9861,
        "top-5 accuracy": 1.0,
    }
    assert (front["library_name"], front["pipeline_tag"]) == ("timm", "image-classification")
    assert "| 98.61% | 100.00% | 360 validation images, one centre crop, in fp32 |" in text
    assert "`1,437 train, 360 val, 10 classes`" in text
    assert "d" * 64 in text
    assert "<https://huggingface.co/spaces/ana/demo>" in text


def test_its_code_is_python_and_names_the_repository() -> None:
    _, text = card(info(), origin().history)
    blocks = [block.partition("```")[0] for block in text.split("```python\n")[1:]]

    assert len(blocks) == 3
    for block in blocks:
        compile(block, "README.md", "exec")
    assert 'timm.create_model("hf-hub:ana/net", pretrained=True)' in text


def test_an_accuracy_that_was_not_measured_is_not_told() -> None:
    front, text = card(info(top1=float("nan")), RunHistory())

    assert "model-index" not in front
    assert "has not been measured" in text
    assert "nan" not in text
    assert "Nothing is known of the data set but its digest." in text


@pytest.mark.parametrize(
    ("train", "says"),
    [
        (IMAGENET.train, "(complete: all images that were published)"),
        (1000, "(not complete: published are 1,281,167 train, 50,000 val)"),
    ],
)
def test_of_imagenet_it_says_whether_it_was_complete_and_names_its_terms(train: int, says: str) -> None:
    of = origin(dataset="imagenet", train=train, val=IMAGENET.val, classes=1000)
    front, text = card(
        info(tuple(imagenet_classes()), WORDS), of.history, of_imagenet=True, with_photos=False
    )

    assert says in text
    assert front["datasets"] == ["ILSVRC/imagenet-1k"]
    assert (front["license"], front["license_link"]) == ("other", "https://image-net.org/download.php")
    assert "None of ImageNet's photos is in this repository." in text
    assert "The classes are in `bundle/labels.txt`." in text


def test_names_from_elsewhere_are_shown_and_are_no_markup() -> None:
    nasty = (
        "a`b\n\n# Heading",
        "---\nlicense: mit",
        "{{ 7 * 7 }}",
        "\udcff",
        "<script>",
        *map(str, range(5)),
    )
    front, text = card(info(classes=nasty), origin(dataset="x\n---\nlicense: mit").history)

    assert "\n# Heading" not in text
    assert "license" not in front
    assert "`{{ 7 * 7 }}`" in text
    assert "`<script>`" in text


@pytest.mark.parametrize("licence", ["mit", None])
def test_the_licence_is_the_one_that_was_given_or_none(licence: str | None) -> None:
    front, text = card(info(), origin().history, licence=licence)

    assert front.get("license") == licence
    assert ("`mit`" if licence else "None was given") in text


def test_without_weights_for_timm_it_shows_onnx_alone() -> None:
    front, text = card(info(), origin().history, with_timm=False)

    assert front["library_name"] == "onnx"
    assert "timm and torchvision have no such network" in text
    assert "```python" not in text


def test_of_the_runs_tags_it_tells_no_names() -> None:
    _, text = card(info(), origin().history)

    assert "- gpu: `cpu`" in text
    assert "ana" not in text.replace("ana/", "")
