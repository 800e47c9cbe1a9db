"""What is loaded is what was registered: whole, or refused with what there is."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tracking.conftest import Server
from tests.tracking.models import INFO, finished_run, network, rebuild, register_it
from trainer.errors import TrackingError
from trainer.sealed import seal
from trainer.tracking import load_model, tracking_uri
from trainer.tracking._server import connect
from trainer.tracking._versions import FILES_SHA256
from trainer.tracking._weights import write_weights


def test_a_run_names_its_newest_version(runs: Path) -> None:
    registered = register_it(finished_run(runs / "r"), network())

    assert load_model(f"runs:/{registered.run_id}", runs=runs).registered == registered
    assert load_model(f"runs:/{registered.run_id}/model", runs=runs).registered == registered


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("models:/tyni@candidate", r"there is no registered model tyni at .*; registered are tiny$"),
        (
            "models:/tiny@champion",
            r"there is no models:/tiny@champion; of tiny there are @candidate \(version 1\), /1$",
        ),
        ("models:/tiny/7", r"there is no models:/tiny/7; of tiny there are @candidate \(version 1\), /1$"),
        ("runs:/0123", r"run 0123 has no registered model at .*; registered are tiny$"),
        ("tiny", r"'tiny' names no model; write models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID$"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(runs: Path, uri: str, sentence: str) -> None:
    register_it(finished_run(runs / "r"), network())

    with pytest.raises(TrackingError, match=sentence):
        load_model(uri, runs=runs)


def test_an_empty_registry_and_a_missing_one_are_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="nothing is registered there yet, train first"):
        load_model("models:/tiny@candidate", runs=runs)
    with pytest.raises(TrackingError, match=r"there is no .*/nowhere/mlflow\.db"):
        load_model("models:/tiny@candidate", runs=tmp_path / "nowhere")

    assert not (tmp_path / "nowhere").exists()


def stored_at(runs: Path) -> Path:
    """The folder of the one registered version."""
    (card,) = (runs / "artifacts").rglob("MLmodel")
    return card.parent


FILES = [
    "MLmodel",
    "conda.yaml",
    "data/model.pt2",
    "info.json",
    "input_example.json",
    "python_env.yaml",
    "requirements.txt",
    "samples/0.jpeg",
    "serving_input_example.json",
    "weights.safetensors",
]


def test_each_file_of_a_version_counts(runs: Path) -> None:
    register_it(finished_run(runs / "r"), network())
    stored = stored_at(runs)
    assert {path.relative_to(stored).as_posix() for path in stored.rglob("*") if path.is_file()} >= {*FILES}

    for path in [path for path in stored.rglob("*") if path.is_file()]:
        data = path.read_bytes()
        for damage in (data[:-1] + bytes([data[-1] ^ 1]), data[:-1], b""):
            path.write_bytes(damage)
            with pytest.raises(TrackingError, match="is damaged, or was changed since it was registered"):
                load_model("models:/tiny@candidate", runs=runs, trust=True)
        path.unlink()
        with pytest.raises(TrackingError, match="is damaged, or was changed since it was registered"):
            load_model("models:/tiny@candidate", runs=runs)
        path.write_bytes(data)
    (stored / "code").mkdir()
    (stored / "code" / "onnx.py").write_text("")
    with pytest.raises(TrackingError, match=r"code/onnx\.py is not in SHA256SUMS"):
        load_model("models:/tiny@candidate", runs=runs)

    (stored / "code" / "onnx.py").unlink()
    assert load_model("models:/tiny@candidate", runs=runs).info == INFO


def forge(runs: Path, change: Callable[[Path], object], *, sealed: bool = True) -> None:
    """What whoever reaches the server can do: change the files, list them anew, and write any tag."""
    stored, client = stored_at(runs), connect(tracking_uri(runs))
    change(stored)
    if sealed:
        client.set_model_version_tag("tiny", "1", FILES_SHA256, seal(stored))
    else:
        client.delete_model_version_tag("tiny", "1", FILES_SHA256)


def test_a_server_that_has_another_digest_than_the_run_is_not_believed(runs: Path) -> None:
    register_it(finished_run(runs / "r"), network())
    forge(runs, lambda stored: write_weights(stored / "weights.safetensors", network(7).state_dict()))

    with pytest.raises(TrackingError, match="is not what its run registered"):
        load_model("models:/tiny@candidate", runs=runs, trust=True)


CANNOT_BE: list[dict[str, Any]] = [
    {"architecture": 3},
    {"classes": "cat"},
    {"classes": []},
    {"classes": ["cat", 2, "eel"]},
    {"class_ids": ["c"]},
    {"preprocess": {}},
    {"preprocess": {"val_resize": 18, "val_size": 10**9, "mean": [0, 0, 0], "std": [1, 1, 1]}},
    {"preprocess": {"val_resize": 18, "val_size": 16, "mean": [0, 0, 0], "std": [1, 0, 1]}},
    {"samples": 7},
    {"samples": [{"file": "../info.json", "name": "a", "label": 0}]},
    {"samples": [{"file": "..", "name": "a", "label": 0}]},
    {"samples": [{"file": "", "name": "a", "label": 0}]},
    {"samples": [{"file": "nothing.jpeg", "name": "a", "label": 0}]},
    {"samples": [{"file": "0.jpeg", "name": "a", "label": 3}]},
    {"samples": [{"file": "0.jpeg", "name": "a", "label": -1}]},
    {"top1": "much"},
]
OTHERS = [b"", b"{}", b"[]", b"\0" * 64, b"\xff" * 64, b'{"a": 1}']
NO_WEIGHTS = b"\x08" + bytes(7) + b"{}      "


def test_a_version_that_says_what_cannot_be_or_is_something_else_is_refused_in_a_sentence(runs: Path) -> None:
    register_it(finished_run(runs / "r"), network())
    (runs / "r" / "registered.json").unlink()
    stored = stored_at(runs)
    changes = [
        ("info.json", json.dumps(json.loads((stored / "info.json").read_text()) | one).encode())
        for one in CANNOT_BE
    ]
    changes += [(name, data) for name in ("info.json", "weights.safetensors") for data in OTHERS]
    changes += [("weights.safetensors", NO_WEIGHTS)]
    for name, data in changes:
        sound = (stored / name).read_bytes()
        (stored / name).write_bytes(data)
        forge(runs, lambda _: None)
        if data.startswith(b"\x08"):  # it is sound, and fits no network
            assert load_model("models:/tiny@candidate", runs=runs).state_dict == {}
        else:
            with pytest.raises(TrackingError, match="is no model of `trainer train`"):
                load_model("models:/tiny@candidate", runs=runs)
        (stored / name).write_bytes(sound)


def test_a_version_without_a_digest_is_refused_and_with_trust_said_plainly(
    runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    register_it(finished_run(runs / "r"), network())
    (runs / "r" / "registered.json").unlink()
    forge(runs, lambda _: None, sealed=False)

    with pytest.raises(TrackingError, match=r"has no tag files_sha256: .* or take it with --trust$"):
        load_model("models:/tiny@candidate", runs=runs)
    assert load_model("models:/tiny@candidate", runs=runs, trust=True).info == INFO
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "models:/tiny/1 is loaded because of --trust: nothing says who made it, nor that it is whole"
    ]


def test_a_version_of_an_earlier_trainer_is_refused_even_with_trust(runs: Path) -> None:
    register_it(finished_run(runs / "r"), network())
    (runs / "r" / "registered.json").unlink()
    forge(runs, lambda stored: (stored / "weights.safetensors").unlink(), sealed=False)

    with pytest.raises(TrackingError, match=r"it has no weights\.safetensors; nothing else of it is loaded"):
        load_model("models:/tiny@candidate", runs=runs, trust=True)


def code_in_mlmodel(stored: Path, canary: Path) -> None:
    """MLmodel names a folder of code; it hides what is imported, and a module that MLflow imports for a pickle."""
    import yaml

    card = yaml.safe_load((stored / "MLmodel").read_text())
    for flavour in card["flavors"].values():
        flavour["code"] = "code"
    (stored / "MLmodel").write_text(yaml.safe_dump(card))
    (stored / "code").mkdir()
    for name in ("evil", "onnx", "onnxruntime", "safetensors", "torchvision", "random"):
        (stored / "code" / f"{name}.py").write_text(f"open({str(canary)!r}, 'a').write({name!r})")
    (stored / "data" / "pickle_module_info.txt").write_text("evil")
    (stored / "data" / "model.pth").write_bytes(b"x")


def code_in_pt2(stored: Path, canary: Path) -> None:
    """A shape expression of the archive is Python, which torch.export.load evaluates."""
    archive = stored / "data" / "model.pt2"
    with zipfile.ZipFile(archive) as old:
        members = {one.filename: old.read(one) for one in old.infolist()}
    touch = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    with zipfile.ZipFile(archive, "w") as new:
        for name, data in members.items():
            if name.endswith("models/model.json"):
                expression = re.compile(rb'"expr_str": "((?:[^"\\]|\\.)*)"')
                assert expression.search(data)
                data = expression.sub(lambda _: f'"expr_str": "{touch} or s77"'.encode(), data)
            new.writestr(name, data)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("plant", [code_in_mlmodel, code_in_pt2])
def test_no_code_of_a_version_is_run(
    runs: Path, tmp_path: Path, plant: Callable[[Path, Path], None], sealed: bool
) -> None:
    canary = tmp_path / "canary"
    register_it(finished_run(runs / "r"), network())
    (runs / "r" / "registered.json").unlink()
    forge(runs, lambda stored: plant(stored, canary), sealed=sealed)

    loaded = load_model("models:/tiny@candidate", runs=runs, trust=True)

    assert loaded.info == INFO
    assert not canary.exists()
    if plant is code_in_pt2:  # the canary is a live one
        with suppress(AssertionError):
            torch.export.load(stored_at(runs) / "data" / "model.pt2")
        assert canary.exists()


def test_the_process_keeps_its_own_tracking_address(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    register_it(finished_run(runs / "r"), network())
    load_model("models:/tiny@candidate", runs=runs)

    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert os.listdir(tmp_path) == [runs.name]  # neither an mlflow.db nor an mlruns of MLflow's default


def test_a_model_goes_through_a_server_and_back(server: Server, tmp_path: Path) -> None:
    model, images = network(), torch.randn(3, 3, 16, 16)

    registered = register_it(finished_run(tmp_path / "r"), model, name="there-and-back")

    loaded = load_model("models:/there-and-back@candidate", runs=tmp_path)
    assert loaded.registered == registered
    torch.testing.assert_close(rebuild(loaded.state_dict)(images), model(images), rtol=0, atol=0)
    with pytest.raises(TrackingError, match=rf"there is no registered model tyni at {server.uri}"):
        load_model("models:/tyni/1")
