"""README's stack section, followed word by word: its own code blocks, in a checkout of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.dataset import published
from tests.stack.conftest import ENVIRONMENT, MARKS, ROOT, no_engine

pytestmark = [*MARKS]

# Minutes instead of hours, by the way that README names for options.
SMALL = (
    "--set classes=null --set model=resnet18 --set epochs=2 --set schedule.warmup_epochs=0 "
    "--set global_batch=12 --set log_every=1000 --no-report --no-export"
)


def blocks() -> list[list[str]]:
    """The code blocks of the section, as lines."""
    (section,) = re.findall(
        r"^## Train with the stack\n(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S
    )
    found = re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
    return [[line.strip() for line in block.splitlines()] for block in found]


class Reader:
    """Who follows README in a fresh checkout. `said` has what each command printed."""

    def __init__(self, folder: Path, imagenet: Path) -> None:
        self.folder, self.imagenet = folder, imagenet
        self.said: dict[str, str] = {}
        self.environment = ENVIRONMENT | {
            "COMPOSE_PROJECT_NAME": f"trainer-readme-{os.getpid()}",
            "MLFLOW_PORT": str(free_port()),
            "TRAINER_VERSION": "tested",
            "TRAINER_ARGS": SMALL,
        }

    def follow(self, block: list[str]) -> None:
        """Run the commands of a block, or add the settings of one to .env."""
        for line in block:
            here = line.replace("/data/imagenet", str(self.imagenet)).replace("sudo ", "")
            if re.match(r"[A-Z_]+=", here):
                with (self.folder / ".env").open("a") as env:
                    env.write(f"{here}\n")
            else:
                self.said[line] = self.run(here)

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    if reason := no_engine():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    folder = tmp_path_factory.mktemp("readme")
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True)
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (folder / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "checkout" / name)
    reader = Reader(folder / "checkout", folder / "imagenet")
    try:
        for number, block in enumerate(blocks()):
            if any("/archives/" in line for line in block):
                published.kaggle_zip(reader.folder / "archives")
                assert number > 3, "the data comes after the digits"
            reader.follow(block)
        yield reader
    finally:
        reader.run("docker compose --profile '*' down --volumes --timeout 5")


def origin(bundle: Path) -> tuple[str, str]:
    """The registered model that a bundle is of, and its recipe."""
    model = json.loads((bundle / "preprocess.json").read_text())["model"]
    return model["source"], model["recipe"]


def test_the_section_has_the_whole_way_in_its_blocks() -> None:
    lines = [line for block in blocks() for line in block]

    assert lines[:3] == ["./scripts/setup", "docker compose up trainer", "docker compose run --rm export"]
    assert {"DATA_DIR=/data/imagenet", "RECIPE=rn50-75"} <= set(lines)
    assert lines[-2:] == ["docker compose up trainer", "docker compose run --rm export"]


def test_each_export_is_of_the_recipe_that_was_trained_last(reader: Reader) -> None:
    exported = {bundle.name: origin(bundle) for bundle in (reader.folder / "export").iterdir()}

    assert exported == {
        "resnet50-digits-1": ("models:/resnet50-digits/1", "digits"),
        "resnet50-imagenet-1": ("models:/resnet50-imagenet/1", "rn50-75"),
    }


def test_the_data_is_prepared_and_every_image_decodes(reader: Reader) -> None:
    said = reader.said["docker compose run --rm check --decode"]

    assert "12 to train, 6 to validate" in said
    assert "0 bad" in said


def test_what_a_command_has_to_say_is_not_lost_among_lines_of_building(reader: Reader) -> None:
    for command in ("docker compose run --rm check --decode", "docker compose run --rm export"):
        lines = reader.said[command].splitlines()
        assert not [line for line in lines if re.match(r"#\d+ ", line)], command
        assert len(lines) < 40, command


def test_setup_says_what_the_first_build_takes_and_shows_it(reader: Reader) -> None:
    said = reader.said["./scripts/setup"]

    assert "30 GB of disk" in said
    assert re.search(r"^#\d+ ", said, re.MULTILINE)
    assert said.splitlines()[-1] == "setup: next: docker compose up trainer"


def test_there_is_one_image_of_each_dockerfile(reader: Reader) -> None:
    listed = reader.run("docker compose --profile '*' ps --all --format json")
    containers = [json.loads(line) for line in listed.splitlines()]
    images = {one["Service"]: one["Image"] for one in containers}
    ids = {
        name: subprocess.check_output(["docker", "inspect", "--format", "{{.Image}}", one["ID"]], text=True)
        for one in containers
        for name in [one["Service"]]
    }

    assert {images[name] for name in ("image", "digits", "trainer")} == {"trainer:tested"}
    assert ids["digits"] == ids["trainer"] == ids["image"]
    assert ids["migrate"] == ids["mlflow"]


def test_nothing_is_left_when_all_is_deleted(reader: Reader) -> None:
    reader.run("docker compose down --volumes")

    label = f"label=com.docker.compose.project={reader.environment['COMPOSE_PROJECT_NAME']}"
    assert not subprocess.check_output(
        ["docker", "volume", "ls", "--quiet", "--filter", label], text=True
    ).split()
