"""A machine that is stopped: told anew what to do, and started."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

from trainer.cloud._aws import Aws, code_of
from trainer.cloud._launch import Statement, give_rights, role_name
from trainer.errors import CloudError


def told(aws: Aws, instance: str) -> dict[str, str]:
    """What a machine is told, as lines of the shell by the name of each setting."""
    answer = aws.ec2.describe_instance_attribute(InstanceId=instance, Attribute="userData")
    text = base64.b64decode(answer.get("UserData", {}).get("Value") or "").decode(errors="replace")
    return settings(text)


def settings(user_data: str) -> dict[str, str]:
    """The settings in front of a script."""
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", user_data.partition("# shellcheck")[0], re.MULTILINE))


def start_again(
    aws: Aws, facts: dict[str, Any], run: str, kind: str, user_data: str, rights: Sequence[Statement]
) -> None:
    """Start it with other user data, which its script fetches at each boot, and with these rights if its role is ours.

    Raises: CloudError if AWS alone may start it.
    """
    profile = str(facts.get("IamInstanceProfile", {}).get("Arn") or "").rpartition("/")[2]
    if rights and profile == role_name(aws, run):
        give_rights(aws, run, kind, rights)
    name = facts["InstanceId"]
    aws.ec2.modify_instance_attribute(InstanceId=name, UserData={"Value": user_data.encode()})
    try:
        aws.ec2.start_instances(InstanceIds=[name])
    except Exception as error:
        if code_of(error) != "IncorrectSpotRequestState":
            raise
        raise CloudError(
            f"AWS has taken {name} away and alone may start it; it does so by itself when it has such a machine again, "
            f"and the run goes on; not to wait: ./scripts/cloud down {run}, then the same command"
        ) from error


def require_profile(facts: dict[str, Any], run: str, rights: Sequence[Statement]) -> None:
    """Raises: CloudError if a machine that was made without a role would need one now."""
    if rights and "IamInstanceProfile" not in facts:
        raise CloudError(
            f"{run} was made without any right in AWS, which --secret, --runs-remote and s3:// need; take it down "
            f"first (./scripts/cloud down {run}), or give another --name"
        )
