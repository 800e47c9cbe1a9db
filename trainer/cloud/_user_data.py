"""What EC2 instances are told to do: shell scripts with their settings in front, as user data for cloud-init.

Both install themselves as a unit of systemd, `trainer-machine`, which runs at each start of the machine, goes on
where it was, and shuts the machine down at the end. A machine needs no rights in AWS to say how it goes: it writes a
line to its console (/dev/console), which `trainer cloud status` reads with ec2:GetConsoleOutput, whenever something
changes and at least every five minutes:

    trainer: state=preparing starts=1 hours=0.02
    trainer: state=ready starts=1 hours=1.93 images=1331167         the data set is complete, checked and unmounted
    trainer: state=training starts=2 hours=1.25 epoch=3 epochs=18 top1=0.5712
    trainer: state=finished starts=2 hours=9.80 epoch=18 epochs=18 top1=0.7613
    trainer: state=stopped starts=2 hours=5.01 epoch=9 epochs=18 top1=0.6822 reason=saved, e.g. the budget is spent
    trainer: state=failed starts=1 hours=0.05 reason=what stopped it, to the end of the line

`starts` counts the starts of the machine, `hours` adds up what it ran over all of them; `epoch`, `epochs` and
`top1` are absent before the first evaluation.

Secrets never stand here, for whoever may describe the instance, and every process on it, can read user data.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.errors import ConfigError

LIMIT = 16 * 1024  # bytes, EC2's, before Base64
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY(_|$)|^KEY$")
_SCRIPTS = Path(__file__).parent / "user_data"


def render_data(
    *,
    source: str,
    destination_device: str,
    repository: str,
    revision: str,
    secrets_parameter: str | None,
    shorter_side: int | None,
    stop_when_done: bool,
    region: str,
) -> str:
    """User data of a small instance that fills an empty volume with a data set; its label becomes `trainer-data`.

    It wants Ubuntu 24.04 or Debian 12, a root volume of 20 GB, or 200 GB where `source` is downloaded whole (`kaggle`,
    torrents), and ends by `shutdown`: what then happens to the instance is its InstanceInitiatedShutdownBehavior.

    Args:
        source: the words after `trainer prepare`, such as `huggingface`, `kaggle s3://BUCKET/KEY`, `imagenette --size
            320`, a URL or a magnet link; `kaggle` alone downloads from Kaggle, `fetch URL` copies a prepared folder.
        destination_device: the volume's id, or the name it is attached under.
        repository: where the code is cloned from, without a password.
        revision: commit, branch or tag; "": its default branch.
        secrets_parameter: name of an SSM SecureString with lines such as HF_TOKEN=…, KAGGLE_USERNAME=…, KAGGLE_KEY=….
        shorter_side: pixels, as of `trainer prepare`.
        stop_when_done: shut down at the end, also when it failed.
        region: of the instance and the parameter.

    Raises: ConfigError for what cannot be run as it stands.
    """
    try:
        words = shlex.split(source)
    except ValueError as error:
        raise ConfigError(f"the source {source!r} is no line of words: {error}") from None
    if not words or words[0].startswith("-"):
        raise ConfigError(f"{source!r} is no source; give what `trainer prepare` takes, e.g. huggingface")
    if shorter_side is not None and shorter_side < 1:
        raise ConfigError(f"a shorter side of {shorter_side} pixels is none; leave it out, or give e.g. 352")
    settings: dict[str, str | list[str]] = {
        "SOURCE": words,
        "DEVICE": _device(destination_device),
        "REPOSITORY": _repository(repository),
        "REVISION": _revision(revision) if revision else "",
        "SECRETS": secrets_parameter or "",
        "SHORTER_SIDE": str(shorter_side or ""),
        "KEEP": "" if stop_when_done else "yes",
        "REGION": region,
    }
    return _render("data.sh", settings)


def render_train(
    *,
    recipe: str,
    arguments: Sequence[str],
    repository: str,
    revision: str,
    data_device: str,
    copy_to_nvme: bool,
    env: Mapping[str, str],
    env_parameter: str | None,
    keep: bool,
    region: str,
) -> str:
    """User data of a GPU instance that trains one recipe with the stack of compose.yaml, and stops itself afterwards.

    It wants one of AWS's Deep Learning AMIs with Docker, and a root volume of 150 GB: the images, the runs and MLflow's
    database are there and survive a stop.

    Args:
        recipe: name of a shipped recipe.
        arguments: further ones of `trainer train`.
        repository: where the code is cloned from, without a password.
        revision: commit, branch or tag.
        data_device: id of the volume with the data set, or the name it is attached under; "" for the digits, which
            need none.
        copy_to_nvme: copy the images to the instance store where they fit.
        env: further lines of `.env`, nothing secret.
        env_parameter: name of an SSM SecureString with lines KEY='VALUE' of `.env`.
        keep: leave the instance running when the run has ended.
        region: of the instance and the parameter.

    Raises: ConfigError for what cannot be run as it stands.
    """
    if not re.fullmatch(r"[\w][\w./-]*", recipe, re.ASCII):
        raise ConfigError(f"{recipe!r} is no recipe's name; `trainer recipes` lists them")
    for key in env:
        if not re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII):
            raise ConfigError(f"{key!r} is no name of a variable for .env")
        if SECRET.search(key.upper()):
            raise ConfigError(
                f"{key} looks like a secret, and user data can be read; put it into the SSM parameter"
            )
    lines = {"RECIPE": recipe, **({"TRAINER_ARGS": shlex.join(arguments)} if arguments else {}), **env}
    settings: dict[str, str | list[str]] = {
        "ENVIRONMENT": [f"{key}={quote(value)}" for key, value in lines.items()],
        "REPOSITORY": _repository(repository),
        "REVISION": _revision(revision),
        "DEVICE": _device(data_device) if data_device else "",
        "COPY": "yes" if copy_to_nvme else "",
        "SECRETS": env_parameter or "",
        "KEEP": "yes" if keep else "",
        "REGION": region,
    }
    return _render("train.sh", settings)


def _render(script: str, settings: Mapping[str, str | list[str]]) -> str:
    for name, value in settings.items():
        if any(ord(character) < 32 for character in "".join(value)):
            raise ConfigError(f"a control character in {name.lower()}: {value!r}")
    assignments = [
        f"{name}={shlex.quote(value) if isinstance(value, str) else f'({shlex.join(value)})'}"
        for name, value in settings.items()
    ]
    bodies = [(_SCRIPTS / name).read_text() for name in ("machine.sh", script)]
    text = "\n".join(["#!/usr/bin/env bash", *assignments, *bodies])
    if (size := len(text.encode())) > LIMIT:
        raise ConfigError(
            f"the instance would be told {size:,} bytes, EC2 takes {LIMIT:,}; give fewer or shorter settings"
        )
    return text


def quote(value: str) -> str:
    """A value as Compose reads it from .env: literally, between single quotes."""
    if "\\" in value:
        raise ConfigError(f"a backslash is read in different ways from .env; do without it: {value!r}")
    return "'" + value.replace("'", "\\'") + "'"


def _revision(revision: str) -> str:
    if not re.fullmatch(r"[\w][\w./+-]*", revision, re.ASCII):
        raise ConfigError(f"{revision!r} is no commit, branch or tag")
    return revision


def _device(device: str) -> str:
    if not re.fullmatch(r"vol-[0-9a-f]+|/dev/\w+", device, re.ASCII):
        raise ConfigError(f"{device!r} is neither a volume's id (vol-…) nor a device (/dev/sdf)")
    return device


def _repository(repository: str) -> str:
    if not re.fullmatch(r"(https?|ssh|git|file)://[^\s-]\S*|[\w.-]+@[\w.-]+:[^\s-]\S*", repository):
        raise ConfigError(
            f"{repository!r} is no address that git clones from; give one like https://HOST/OWNER/NAME"
        )
    if re.match(r"\w+://[^/@]*:[^/@]*@", repository) or re.match(r"https?://[^/@]*@", repository):
        raise ConfigError("the repository's address holds a password or token, and user data can be read")
    return repository
