"""The folder of a model: what others load of it, what its card says, and what is not in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
import yaml
from safetensors.torch import load_file

from tests.publish.conftest import DIGITS, loaded, origin
from trainer.dataset import imagenet_classes
from trainer.errors import ConfigError
from trainer.export import load_bundle
from trainer.model import rebuild
from trainer.publish import MODEL_FILES, Publication, may_show, write_model_folder
from trainer.sealed import check_seal, sha256
from trainer.tracking import LoadedModel, Origin

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def published(
    folder: Path,
    model: LoadedModel,
    of: Origin | None = None,
    *,
    photos: bool = True,
    report: bool = False,
) -> Path:
    folder.mkdir(exist_ok=True)
    write_model_folder(
        folder,
        Publication(
            model=model,
            origin=of or origin(),
            repo="ana/digits",
            space="ana/demo",
            licence=None,
            photos=photos,
            report=report,
        ),
    )
    return folder


@pytest.fixture(scope="module")
def folder(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("out") / "model", model)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def front_matter(folder: Path) -> dict[str, object]:
    front = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert isinstance(front, dict)
    return front


def logits_of(model: LoadedModel) -> torch.Tensor:
    info = model.info
    network = rebuild(info.architecture, len(info.classes), model.state_dict)
    with torch.inference_mode():
        return network.to(memory_format=torch.contiguous_format)(IMAGES)


def test_it_has_these_files_and_no_others(folder: Path) -> None:
    golden = {f"bundle/golden/{name}" for name in ("0.jpeg", "1.jpeg", "2.jpeg")} | {
        f"bundle/golden/{name}" for name in ("expected.json", "inputs.npy", "probabilities.npy")
    }
    networks = {f"bundle/{name}.onnx" for name in ("model", "model_batch1", "model_fp16")}
    programs = {"build_engine.sh", "classify.py", "run_jetson_inference.sh", "verify.py"}
    texts = {"labels.txt", "preprocess.json", "variants.json", "README.txt", *programs}

    assert files(folder) == {
        "README.md",
        "config.json",
        "model.safetensors",
        "SHA256SUMS",
        "bundle/SHA256SUMS",
        *(f"bundle/{name}" for name in texts),
        *networks,
        *golden,
    }
    check_seal(folder, required=("README.md",))
    assert all(any(file == one or file.startswith(one) for one in MODEL_FILES) for file in files(folder))


def test_torchvision_loads_its_weights_and_answers_as_the_model(folder: Path, model: LoadedModel) -> None:
    network = torchvision.models.resnet18(num_classes=10).eval()
    network.load_state_dict(load_file(folder / "model.safetensors"))

    with torch.inference_mode():
        torch.testing.assert_close(network(IMAGES), logits_of(model), rtol=0, atol=0)


@pytest.mark.parametrize("how", ["checkpoint", "folder"])
def test_timm_loads_it_in_one_line_and_answers_as_the_model(
    folder: Path, model: LoadedModel, how: str
) -> None:
    if how == "checkpoint":
        network = timm.create_model(
            "resnet18", num_classes=10, checkpoint_path=str(folder / "model.safetensors")
        )
    else:
        network = timm.create_model(f"local-dir:{folder}", pretrained=True)

    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(IMAGES), logits_of(model), rtol=0, atol=0)


def test_the_bundle_answers_as_the_model(folder: Path, model: LoadedModel) -> None:
    answers = load_bundle(folder / "bundle")(IMAGES.numpy())

    np.testing.assert_allclose(answers, logits_of(model).softmax(dim=1).numpy(), atol=1e-4)


def test_its_card_names_the_weights_by_their_digest(folder: Path) -> None:
    text = (folder / "README.md").read_text()

    for file in ("model.safetensors", "bundle/model.onnx"):
        assert f"{sha256(folder / file)}  {file}\n" in text


def test_nothing_of_this_machine_or_its_user_is_in_it_but_the_report(
    tmp_path: Path, model: LoadedModel
) -> None:
    run = tmp_path / "runs" / "secret-run"
    checkpoint = run / "checkpoints" / "step-00000308-0123456789abcdef.pt"
    (run / "report").mkdir(parents=True)
    (run / "report" / "report.html").write_text("<html>")
    (run / "report" / "label_errors.html").write_text("<html>")
    (run / "report" / "curves.png").write_text("not listed")
    (run / "journal.jsonl").write_text("{}\n")
    folder = published(
        tmp_path / "out",
        replace(model, registered=None, source=str(checkpoint)),
        origin(run=run),
        report=True,
    )

    assert {file for file in files(folder) if "bundle" not in file} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "report.html",
        "label_errors.html",
        "SHA256SUMS",
    }
    assert "`report.html` shows" in (folder / "README.md").read_text()
    content = b"".join((folder / name).read_bytes() for name in files(folder))
    for secret in (str(tmp_path), "/home/ana", "secret-run"):
        assert secret.encode() not in content, secret
    assert (
        json.loads((folder / "bundle" / "preprocess.json").read_text())["model"]["source"] == checkpoint.name
    )


def test_imagenets_photos_are_left_out(tmp_path: Path) -> None:
    wnids = tuple(list(imagenet_classes())[:10])
    folder = published(tmp_path / "out", loaded(class_ids=wnids), origin(dataset="imagenette"), photos=False)

    assert not any("golden" in file for file in files(folder))
    load_bundle(folder / "bundle")
    assert "There is no golden/ here" in (folder / "bundle" / "README.txt").read_text()


def test_a_network_that_timm_has_not_is_published_as_onnx_alone(tmp_path: Path) -> None:
    folder = published(tmp_path / "out", loaded("resnet18_blurpool"))

    assert not {"config.json", "model.safetensors"} & files(folder)
    assert front_matter(folder)["library_name"] == "onnx"
    assert "timm and torchvision have no such network" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("class_ids", "dataset", "asked", "may"),
    [
        (DIGITS, "digits", False, True),
        (DIGITS, "mine", False, False),
        (DIGITS, None, False, False),
        (("cat", "dog"), "digits", False, False),
        (("cat", "dog"), "mine", True, True),
        (("cat", "n01440764"), "digits", False, False),
    ],
)
def test_photos_are_shown_if_they_are_free_or_their_owner_says_so(
    class_ids: tuple[str, ...], dataset: str | None, asked: bool, may: bool
) -> None:
    assert may_show(class_ids, dataset, asked=asked) is may


def test_imagenets_photos_are_not_shown_whoever_asks() -> None:
    with pytest.raises(ConfigError, match="are ImageNet's, whose terms forbid"):
        may_show(("n01440764", "n02102040"), "imagenette", asked=True)
