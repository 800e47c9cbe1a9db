"""User data: whatever the settings hold, the machine's shell reads them as they were given."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.cloud._user_data import LIMIT, render_data, render_train
from trainer.errors import ConfigError

ROOT = Path(__file__).parents[2]
HOSTILE = "a'b\"c$(touch /tmp/owned)`id`;&|<>*?~ \\ $HOME {} é #"
DATA: dict[str, Any] = {
    "source": "huggingface",
    "destination_device": "/dev/sdf",
    "repository": "https://example.org/me/trainer",
    "revision": "",
    "secrets_parameter": None,
    "shorter_side": None,
    "stop_when_done": True,
    "region": "us-east-1",
}
TRAIN: dict[str, Any] = {
    "recipe": "rn50-75",
    "arguments": [],
    "repository": "https://example.org/me/trainer",
    "revision": "abc123",
    "data_device": "/dev/sdf",
    "copy_to_nvme": True,
    "env": {},
    "env_parameter": None,
    "keep": False,
    "region": "us-east-1",
}


def settings(script: str) -> dict[str, list[str]]:
    """The values as bash reads them, by name."""
    lines = script.split("# shellcheck", 1)[0].splitlines()[1:]
    names = [line.partition("=")[0] for line in lines]
    show = "".join(f'printf "%s\\0" {name} "${{{name}[@]}}" ""; printf "\\n\\0";' for name in names)
    done = subprocess.run(["bash", "-euc", "\n".join([*lines, show])], capture_output=True, check=True)
    groups = [group.split("\0") for group in done.stdout.decode().split("\n\0") if group]
    return {group[0]: group[1:-2] for group in groups}


def test_hostile_values_are_read_as_they_were_given(tmp_path: Path) -> None:
    train = render_train(
        **TRAIN
        | {
            "arguments": ["--name", HOSTILE.replace("\\", "")],
            "env": {"NOTE": HOSTILE.replace("\\", "")},
            "region": HOSTILE,
        }
    )
    data = render_data(**DATA | {"source": shlex.join(["folder", HOSTILE]), "secrets_parameter": HOSTILE})

    assert settings(train)["REGION"] == [HOSTILE]
    assert settings(data)["SOURCE"] == ["folder", HOSTILE]
    assert settings(data)["SECRETS"] == [HOSTILE]
    assert not Path("/tmp/owned").exists()


def test_what_each_setting_becomes() -> None:
    data = settings(render_data(**DATA | {"shorter_side": 352, "secrets_parameter": "/trainer/x/env"}))
    assert data == {
        "SOURCE": ["huggingface"], "DEVICE": ["/dev/sdf"], "REPOSITORY": ["https://example.org/me/trainer"],
        "REVISION": [""], "SECRETS": ["/trainer/x/env"], "SHORTER_SIDE": ["352"], "KEEP": [""],
        "REGION": ["us-east-1"],
    }  # fmt: skip
    train = settings(render_train(**TRAIN | {"copy_to_nvme": False, "keep": True, "env": {"A": "b"}}))
    assert (train["COPY"], train["KEEP"]) == ([""], ["yes"])
    assert train["ENVIRONMENT"] == ["RECIPE='rn50-75'", "A='b'"]


def test_compose_hands_the_arguments_on_word_by_word(tmp_path: Path) -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("wants Compose")
    words = ["--name", "it's $HOME", "--set", 'note=a "b" #c', "--price", "0.41"]
    env = {"RUNS_DIR": "/srv/a $b", "RUNS_REMOTE": "s3://mine/runs"}
    lines = settings(render_train(**TRAIN | {"arguments": words, "env": env}))["ENVIRONMENT"]
    (tmp_path / ".env").write_text("\n".join(["POSTGRES_PASSWORD=x", *lines]) + "\n")
    files = [f"--env-file={tmp_path / '.env'}", f"--file={ROOT / 'compose.yaml'}"]
    command = ["docker", "compose", *files, "config", "trainer"]
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    said = subprocess.check_output([*command, "--format=json"], env=environment, text=True)

    service = json.loads(said)["services"]["trainer"]
    # Compose doubles each $, for its output may be read again.
    assert [word.replace("$$", "$") for word in service["command"]][-len(words) :] == words
    assert service["command"][:2] == ["train", "rn50-75"]
    assert service["environment"]["RUNS_REMOTE"] == "s3://mine/runs"


@pytest.mark.parametrize(
    ("render", "wrong", "sentence"),
    [
        (render_train, {"recipe": "--help"}, "is no recipe's name"),
        (render_train, {"revision": "--upload-pack=id"}, "is no commit, branch or tag"),
        (render_train, {"env": {"A B": "c"}}, "is no name of a variable"),
        (render_train, {"env": {"HF_TOKEN": "hf_x"}}, "HF_TOKEN looks like a secret"),
        (render_train, {"env": {"A": "b\nC=d"}}, "a control character in environment"),
        (render_train, {"arguments": ["--name", "a\\"]}, "a backslash is read in different ways"),
        (render_train, {"repository": "ext::sh -c id"}, "is no address that git clones from"),
        (render_train, {"repository": "https://me:ghp_x@example.org/me/x"}, "holds a password or token"),
        (render_train, {"data_device": "sdf"}, "is neither a volume's id"),
        (render_train, {"arguments": ["x" * LIMIT]}, "EC2 takes 16,384"),
        (render_data, {"source": "--out /"}, "is no source"),
        (render_data, {"source": "'"}, "is no line of words"),
        (render_data, {"source": " "}, "is no source"),
        (render_data, {"shorter_side": 0}, "a shorter side of 0 pixels"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence(
    render: Callable[..., str], wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as refused:
        render(**(TRAIN if render is render_train else DATA) | wrong)

    assert "ghp_x" not in str(refused.value)
    assert "hf_x" not in str(refused.value)


def test_the_unit_that_a_machine_installs_is_one(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("wants systemd-analyze")
    unit = render_train(**TRAIN).partition("<<UNIT\n")[2].partition("\nUNIT")[0]
    (tmp_path / "trainer-machine.service").write_text(unit.replace("$PROGRAM", "/bin/true"))

    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "trainer-machine.service"], capture_output=True
    )

    assert (done.returncode, done.stderr) == (0, b"")
