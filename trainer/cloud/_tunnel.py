"""`trainer cloud ui`: MLflow of a machine, at a port of this computer."""

from __future__ import annotations

import json
from typing import NamedTuple

from trainer.cloud._aws import Aws, by_tag, tag
from trainer.cloud._group import let_in, own_address
from trainer.cloud._machine import Found
from trainer.errors import CloudError

MLFLOW = 5000  # compose.yaml
TRAINING = (
    "#/experiments?workflowType=machine_learning"  # MLflow opens on what is for language models otherwise
)


class Tunnel(NamedTuple):
    """A command that runs as long as the tunnel is open."""

    command: list[str]
    url: str


def find_tunnel(
    aws: Aws, run: str | None, *, port: int, identity: str | None, ssh_from: str | None
) -> Tunnel:
    """The tunnel to the one machine that trains, with this computer's address let in. Raises: CloudError."""
    filters = [
        *by_tag(run, "train"),
        {"Name": "instance-state-name", "Values": ["running"]},
    ]
    found = [Found(one) for one in aws.instances(Filters=filters)]
    if not found:
        raise CloudError("no machine that trains is running; ./scripts/cloud status shows what is there")
    if len(found) > 1:
        raise CloudError(f"say which run: {', '.join(one.run for one in found)}")
    machine, url = found[0], f"http://127.0.0.1:{port}/{TRAINING}"
    if tag(machine.facts, "Access") == "ssm":
        ports = json.dumps({"portNumber": [str(MLFLOW)], "localPortNumber": [str(port)]})
        start = ["aws", "ssm", "start-session", "--region", aws.region, "--target", machine.id]
        return Tunnel(
            [*start, "--document-name", "AWS-StartPortForwardingSession", "--parameters", ports], url
        )
    if not machine.address:
        raise CloudError(f"{machine.id} has no public address; make it with --ssm")
    # The address changes where people move.
    let_in(aws, machine.run, "train", ssh_from or own_address(), here=not ssh_from)
    key = ["-i", identity] if identity else []
    forward = f"{port}:127.0.0.1:{MLFLOW}"
    # Where the port is taken (a Mac's AirPlay has 5000), the command ends and says so, and does not idle.
    options = ["-o", "ExitOnForwardFailure=yes", "-N", "-L", forward]
    return Tunnel(["ssh", *key, *options, f"ubuntu@{machine.address}"], url)
