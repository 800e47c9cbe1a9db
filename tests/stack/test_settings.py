"""What compose.yaml, .env.example and scripts/setup promise each other; needs no Docker Engine."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

import trainer
from tests.stack.conftest import ENVIRONMENT, ROOT, prepare, run_setup, set_up
from trainer.config import shipped_recipes

COMPOSE = "".join(file.read_text() for file in sorted(ROOT.glob("compose*.yaml")))
EXAMPLE = (ROOT / ".env.example").read_text()
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
TLS = yaml.safe_load((ROOT / "compose.tls.yaml").read_text())["services"]
GIB = {"m": 1 / 1024, "g": 1.0}
DOCKERS_OWN = {"COMPOSE_FILE", "BUILDKIT_PROGRESS"}  # in .env, for Compose and BuildKit themselves
NVIDIA = """echo '{"nvidia":{},"runc":{}}'"""  # what a Docker Engine with the Container Toolkit answers


def test_every_variable_of_the_compose_files_is_in_env_example_and_the_other_way_round() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE))
    listed = set(re.findall(r"^#? ?([A-Z_]+)=", EXAMPLE, re.MULTILINE))

    assert used == listed - DOCKERS_OWN
    assert listed > DOCKERS_OWN


def test_env_example_shows_the_defaults_of_the_compose_files() -> None:
    defaults = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", COMPOSE))
    shown = dict(re.findall(r"^# ([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))

    assert {key: value for key, value in shown.items() if key not in DOCKERS_OWN} == defaults


def test_env_example_names_every_shipped_recipe() -> None:
    (text,) = re.findall(r"# Name of a shipped recipe((?:.*\n)+?)# RECIPE=", EXAMPLE)

    assert set(re.findall(r"[a-z0-9-]+", text)) >= set(shipped_recipes())


def test_what_the_compose_files_say_in_passing_fits_what_they_do() -> None:
    """A command in a comment, and every `docker compose run --rm SERVICE` of a page, names a service."""
    pages = [
        ROOT / "README.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("compose*.yaml"),
        ROOT / ".env.example",
    ]
    for page in pages:
        text = page.read_text()
        named = re.findall(
            r"docker compose (?:run --rm|up -d|up|stop|logs -f)(?: --?[\w-]+)* ([a-z]+)\b", text
        )
        assert set(named) <= SERVICES.keys() | TLS.keys(), page


def test_each_image_is_built_by_one_service_and_all_others_wait_for_it() -> None:
    """Built by each service, it was another image each time, and 70 lines around one of result."""
    builders = {settings["image"]: name for name, settings in SERVICES.items() if "build" in settings}
    assert set(builders.values()) == {"image", "migrate", "demo"}

    def waits_for(service: str) -> set[str]:
        direct = set(SERVICES[service].get("depends_on", ()))
        return direct.union(*map(waits_for, direct))

    for name, settings in SERVICES.items():
        if settings["image"] in builders and name not in builders.values():
            assert settings["pull_policy"] == "never"
            assert builders[settings["image"]] in waits_for(name), name


def test_decision_4_says_of_the_images_what_compose_does() -> None:
    decision = " ".join((ROOT / "docs" / "decisions" / "0004-stack.md").read_text().split())

    assert "`pull_policy: build`" in decision
    assert "the services `image`, `migrate` and `demo`" in decision
    assert "on-failure:5" in decision
    assert SERVICES["trainer"]["restart"] == "on-failure:5"
    assert not [
        volume
        for settings in SERVICES.values()
        for volume in settings.get("volumes", ())
        if ":/" not in volume
    ], "anonymous volumes stay behind"


def test_the_images_are_tagged_with_the_version_of_the_package() -> None:
    assert set(re.findall(r"TRAINER_VERSION:-([^}]*)", COMPOSE)) == {trainer.__version__}


def test_setup_writes_an_env_with_fresh_passwords_that_only_its_owner_reads(tmp_path: Path) -> None:
    passwords = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        set_up(tmp_path / name, NVIDIA)
        env = tmp_path / name / ".env"
        passwords |= set(re.findall(r"^[A-Z_]+=([0-9a-f]{64})$", env.read_text(), re.MULTILINE))

        assert stat.S_IMODE(env.stat().st_mode) == 0o600
        assert {path.name for path in env.parent.iterdir()} == {
            ".env",
            ".env.example",
            "archives",
            "bin",
            "export",
            "scripts",
        }
    assert len(passwords) == 2 * 3  # of the database, MLflow's admin, and the key of its forms


def test_containers_get_the_ids_of_who_ran_setup_but_never_root(tmp_path: Path) -> None:
    set_up(tmp_path, NVIDIA)
    uid, gid = re.findall(r"^TRAINER_[UG]ID=(\d+)$", (tmp_path / ".env").read_text(), re.MULTILINE)
    export = (tmp_path / "export").stat()

    assert (int(uid), int(gid)) == (export.st_uid, export.st_gid)
    assert int(uid) > 0


def test_setup_leaves_an_env_that_is_there_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=mine\n")

    assert "stays as it is" in set_up(tmp_path, NVIDIA).stdout
    assert (tmp_path / ".env").read_text() == "POSTGRES_PASSWORD=mine\n"


def test_of_two_setups_at_once_one_writes_env(tmp_path: Path) -> None:
    set_up(tmp_path, NVIDIA)
    (tmp_path / ".env").unlink()
    with ThreadPoolExecutor() as pool:
        said = [done.stdout for done in pool.map(run_setup, [tmp_path] * 4, [NVIDIA] * 4)]

    assert sum("wrote .env" in text for text in said) == 1
    assert not list(tmp_path.glob(".env.??????"))


def written(folder: Path) -> dict[str, str]:
    """The settings of .env that are not comments."""
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", (folder / ".env").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("docker", "options", "files"),
    [
        (NVIDIA, (), "compose.yaml"),
        (NVIDIA, ("--cpu",), "compose.yaml:compose.cpu.yaml"),
        ("""echo '{"runc":{}}'""", ("--cpu",), "compose.yaml:compose.cpu.yaml"),
    ],
)
def test_setup_chooses_the_compose_files_and_the_memory_of_this_machine(
    tmp_path: Path, docker: str, options: tuple[str, ...], files: str
) -> None:
    prepare(tmp_path)
    done = run_setup(tmp_path, docker, *options)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30

    assert done.returncode == 0, done.stderr
    assert written(tmp_path)["COMPOSE_FILE"] == files
    assert written(tmp_path)["TRAINER_MEMORY"] == f"{max(total - 5, 4)}g" if total > 9 else "4g"
    assert f"training on the {'CPU' if 'cpu' in files else 'GPU'}" in done.stdout
    assert done.stdout.splitlines()[-1] == "setup: next: docker compose up trainer"


@pytest.mark.parametrize(
    ("docker", "says"),
    [
        ("exit 1", "there is no Docker with Compose v2 here; install both"),
        ('[ "$1" = compose ]', "the Docker Engine does not answer"),
    ],
)
def test_setup_writes_nothing_before_docker_answers(tmp_path: Path, docker: str, says: str) -> None:
    """It would have to guess whether there is a GPU, and an .env that is there stays as it is."""
    prepare(tmp_path)
    done = run_setup(tmp_path, docker)

    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / ".env").exists()


def test_setup_does_not_train_on_the_cpu_of_a_machine_with_a_gpu_unasked(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    done = run_setup(tmp_path, """echo '{"runc":{}}'""")

    assert done.returncode == 2
    assert "install the NVIDIA Container Toolkit" in done.stderr
    assert "./scripts/setup --cpu" in done.stderr
    assert not (tmp_path / ".env").exists()


@pytest.mark.parametrize("service", [*SERVICES, "caddy"])
def test_every_service_is_confined(service: str) -> None:
    settings = (SERVICES | {"caddy": TLS["caddy"]})[service]

    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings["read_only"] is True
    assert settings["pids_limit"] > 0
    assert settings["logging"]["options"]["max-size"]


@pytest.mark.parametrize("name", ["compose.cpu.yaml", "compose.auth.yaml", "compose.tls.yaml"])
def test_an_override_file_opens_nothing(name: str) -> None:
    class Loader(yaml.SafeLoader):
        """Knows Compose's !reset."""

    Loader.add_constructor("!reset", lambda loader, node: None)
    for service, settings in yaml.load((ROOT / name).read_text(), Loader)["services"].items():
        if service in SERVICES:
            assert settings.keys() <= {
                "command",
                "entrypoint",
                "environment",
                "healthcheck",
                "deploy",
                "ulimits",
            }


def test_what_runs_at_the_same_time_fits_the_memory_of_a_g4dn_xlarge() -> None:
    over_before_training = {"image", "migrate", "digits", "prepare", "check"}
    limits = [
        re.sub(r"\$\{.*:-(.*)\}", r"\1", settings["mem_limit"])
        for service, settings in SERVICES.items()
        if service not in over_before_training | {"demo"}  # which shows what export has made
    ]
    assert SERVICES["demo"]["mem_limit"] == SERVICES["export"]["mem_limit"]

    assert sum(int(limit[:-1]) * GIB[limit[-1]] for limit in limits) <= 15


def pin(folder: Path, registry: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/pin in `folder`, with a `docker` that answers what the shell code `registry` says."""
    shutil.copy(ROOT / "scripts" / "pin", folder / "scripts")
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "docker").write_text(f"#!/bin/sh\nset -eu\nimage=$4\n{registry}\n")
    (folder / "bin" / "docker").chmod(0o755)
    path = f"{folder / 'bin'}:{ENVIRONMENT['PATH']}"
    return subprocess.run(
        [folder / "scripts" / "pin"], capture_output=True, text=True, env=ENVIRONMENT | {"PATH": path}
    )


def test_pin_fixes_all_base_images_and_moves_on_when_it_is_run_again(tmp_path: Path) -> None:
    set_up(tmp_path, NVIDIA)
    env = tmp_path / ".env"
    with env.open("a") as file:
        file.write("POSTGRES_TAG=17.6\n")
    before = env.read_text()
    for letter in "ab":
        done = pin(tmp_path, f'[ "$image" = nobody ] || printf "sha256:%064d" 0 | tr 0 {letter}')
        assert done.returncode == 0, done.stderr
        settings = dict(line.split("=", 1) for line in env.read_text().splitlines() if line[:1].isupper())

        assert {name: settings[name] for name in settings if name.endswith("_TAG")} == {
            name: f"{tag}@sha256:{letter * 64}"
            for name, tag in (
                ("NGC_TAG", "26.08-py3"),
                ("PYTHON_TAG", "3.13-slim"),
                ("POSTGRES_TAG", "17.6"),
                ("CADDY_TAG", "2"),
            )
        }
    assert {line for line in before.splitlines() if "_TAG=" not in line} <= set(env.read_text().splitlines())
    assert stat.S_IMODE(env.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "registry", ['case $image in *postgres*) exit 1 ;; esac; printf "sha256:%064d" 1', "echo no"]
)
def test_pin_changes_nothing_if_one_image_cannot_be_looked_up(tmp_path: Path, registry: Any) -> None:
    set_up(tmp_path, NVIDIA)
    before = (tmp_path / ".env").read_text()
    done = pin(tmp_path, registry)

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(".env stays as it is")
    assert (tmp_path / ".env").read_text() == before
    assert not list(tmp_path.glob(".env.??????"))


def test_a_pinned_tag_fits_every_place_it_goes_to() -> None:
    images = re.findall(
        r"[a-z./]+:\$\{([A-Z]+_TAG)",
        COMPOSE + "".join(file.read_text() for file in (ROOT / "docker").glob("*/Dockerfile")),
    )

    assert set(images) == set(
        re.findall(r"^([A-Z]+_TAG) ", (ROOT / "scripts" / "pin").read_text(), re.MULTILINE)
    )


def test_all_images_are_labelled_with_version_revision_and_source() -> None:
    for name, builder in (("trainer", "image"), ("mlflow", "migrate"), ("demo", "demo")):
        dockerfile = (ROOT / "docker" / name / "Dockerfile").read_text()
        for label in ("version", "revision", "source"):
            assert f'org.opencontainers.image.{label}="${{{label.upper()}}}"' in dockerfile
        arguments = SERVICES[builder]["build"]["args"]
        assert {"VERSION", "REVISION", "SOURCE"} <= set(arguments)
