"""What several tests train on: a few photos, and the smallest recipe."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import secrets
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from trainer.config import Preprocess, Recipe, load_recipe
from trainer.dataloader import MEAN, STD
from trainer.dataset import Dataset, folder, open_dataset, prepare
from trainer.dataset import digits as handwritten
from trainer.distributed import World
from trainer.processes import spare_libraries

# The program's own threads that say something or write somewhere.
THREADS = {"renew-lease", "watch-spot", "hear-mirror", "write-checkpoints", "say-where", "download-shards"}
ALONE = World(0, 1, torch.device("cpu"))
# Their tests share what takes long to make: a server of MLflow, a registered model with its bundle, AWS's stand-in.
ROOMS = ("tests/tracking/", "tests/export/", "tests/cloud/")
LONGEST = "tests/training/test_kills.py"  # minutes a test


def pytest_configure() -> None:
    spare_libraries()  # as our own processes do: hundreds of tests come after the imports
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a server of many tests tells of each request


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported stays to the end: each `gc.collect` would look through a million objects of it


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        # Several processes take files in this order: the longest first, that none is left to one of them at the end.
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(
            key=lambda item: (
                not item.get_closest_marker("stack"),
                not item.nodeid.startswith(LONGEST),
                item.path not in slow,
            )
        )
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))


@pytest.hookimpl(optionalhook=True)  # a GPU machine may be without pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each file's tests go to one process, but those of the longest; so do those of some rooms, and all that want the
    Docker Engine, which some restart.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file.startswith(("tests/stack/", "tests/deploy/test_machine")):
                return "docker"
            if file == LONGEST:
                return nodeid
            if file == "tests/test_names.py":
                return ROOMS[0]
            return next((room for room in ROOMS if file.startswith(room)), file)

    return Files(config, log)


@pytest.fixture(autouse=True)
def no_thread_of_ours_is_left() -> Iterator[None]:
    """It would go on while other tests run, on their servers and in their logs."""
    yield
    for thread in [thread for thread in threading.enumerate() if thread.name in THREADS]:
        thread.join(10)  # some end by themselves, a moment later
        assert not thread.is_alive(), f"the test leaves its thread {thread.name} behind"


def is_alive(process: int) -> bool:
    """Whether this process is running; one that nobody has waited for yet is not."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    return False


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody uses, nor gets from the kernel before a server is there that takes it."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = 10_000 + secrets.randbelow(max(first - 10_000, 10_000))
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def write_photo(path: Path, *, width: int = 80, height: int = 60, seed: int = 0) -> None:
    """A smooth picture, so that JPEG keeps its colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=95)


def write_odd_files(folder: Path) -> None:
    """Images of 64 x 48 pixels that are no plain colour JPEGs but must be handled all the same."""
    shades = np.linspace(0, 255, 48 * 64).reshape(48, 64).astype(np.uint8)
    colours = Image.fromarray(np.stack([shades, shades.T.reshape(48, 64), 255 - shades], axis=-1))
    folder.mkdir(parents=True)
    Image.fromarray(shades).save(folder / "grey.JPEG", quality=95)
    colours.convert("CMYK").save(folder / "cmyk.JPEG", quality=95)
    colours.save(folder / "png.JPEG", format="PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    colours.save(folder / "rotated.JPEG", exif=exif, quality=95)


def torchvisions_preprocessing(preprocess: Preprocess) -> Any:
    """From a Pillow image to the network's input (3, H, W), as torchvision's references validate."""
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.Resize(preprocess.val_resize),
            v2.CenterCrop(preprocess.val_size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, 20 training and 9 validation photos of different sizes."""
    root = tmp_path_factory.mktemp("photos")
    for index in range(20):
        kind = ("cat", "dog")[index % 2]
        write_photo(
            root / "train" / kind / f"{index:03d}.JPEG", width=60 + index, height=90 - index, seed=index
        )
    for index in range(9):
        kind = ("cat", "dog")[index % 2]
        write_photo(
            root / "val" / kind / f"{index:03d}.JPEG", width=64 + 3 * index, height=50, seed=100 + index
        )
    prepare(folder(root, out=root), root)
    return root


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Handwritten digits, which a small network learns in seconds."""
    root = tmp_path_factory.mktemp("digits")
    prepare(handwritten(), root)
    return root


@pytest.fixture(scope="session")
def dataset(photos: Path) -> Dataset:
    return open_dataset(photos)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store with MLflow's tables, to be copied: making them takes seconds."""
    from trainer.tracking._server import connect, quiet  # a GPU machine may be without MLflow

    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    with quiet():
        connect(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture(scope="session")
def a_server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Any]:
    """A server of MLflow; its start takes seconds."""
    from tests.tracking.conftest import Server

    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    server = Server(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(a_server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A running server that the environment points to."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", a_server.uri)
    return a_server


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """Three epochs of two steps of 8 images; 32 pixels."""
    return load_recipe(
        "digits",
        [
            "epochs=3",
            "global_batch=8",
            "schedule.warmup_epochs=1",
            "log_every=1",
            "preprocess.train_size=32",
            "preprocess.val_size=32",
            "preprocess.val_resize=36",
            "preprocess.crop_area=[0.3,1]",
            "preprocess.flip=true",
            "precision=fp32",
        ],
    )


@pytest.fixture(scope="session")
def processes() -> Any:
    """Makes processes that are there in no time: forked from one that has imported everything.

    There is one such server for all tests, so it imports what any of them needs.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.trainee", "tests.test_checkpoint"])
    return context
