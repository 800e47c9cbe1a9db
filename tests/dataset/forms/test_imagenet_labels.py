"""ImageNet's classes and validation labels as other projects have them."""

from __future__ import annotations

from trainer.dataset import imagenet_classes, imagenet_val_labels


def test_the_shipped_facts_are_those_of_imagenet() -> None:
    classes = tuple(imagenet_classes())

    assert len(classes) == 1000
    assert list(classes) == sorted(classes)
    assert imagenet_classes()["n07753592"] == "banana"
    assert len(imagenet_val_labels()) == 50_000
    assert all(imagenet_val_labels().count(label) == 50 for label in (0, 499, 999))
    # As torchvision's documentation and the devkit have the first ones.
    assert [classes[label] for label in imagenet_val_labels()[:3]] == ["n01751748", "n09193705", "n02105855"]


def test_the_classes_have_torchvisions_order() -> None:
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    names = [name.split(",")[0].lower() for name in imagenet_classes().values()]
    others = [
        (ours, theirs)
        for ours, theirs in zip(names, map(str.lower, _IMAGENET_CATEGORIES), strict=True)
        if ours != theirs
    ]
    assert others == [("crane", "crane bird"), ("maillot", "maillot tank suit")]
