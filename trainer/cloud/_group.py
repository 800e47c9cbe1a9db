"""The security group of a run: who may come in by SSH."""

from __future__ import annotations

import urllib.request
from ipaddress import ip_network
from typing import Any

from trainer.cloud._aws import PROJECT, Aws, code_of, tag, tags, wait_until
from trainer.errors import CloudError

ADDRESS_SERVICE = "https://checkip.amazonaws.com"
HERE = "trainer cloud: the computer that called it last"  # description of an address that nobody has given


def own_address() -> str:
    """This computer's address as AWS sees it, as a CIDR. Raises: CloudError."""
    try:
        with urllib.request.urlopen(ADDRESS_SERVICE, timeout=10) as answer:
            return str(ip_network(answer.read().decode().strip()))
    except (OSError, ValueError) as error:
        raise CloudError(
            f"{ADDRESS_SERVICE} does not say which address this computer has ({error}); give "
            "--ssh-from ADDRESS/32, or --ssm"
        ) from error


def find_group(aws: Aws, run: str) -> dict[str, Any] | None:
    """The security group of `run`. Raises: CloudError if it is somebody else's."""
    name = f"{PROJECT}-{run}"
    filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [_vpc(aws)]}]
    found = aws.pages("describe_security_groups", "SecurityGroups", Filters=filters)
    if found and tag(found[0], "Project") != PROJECT:
        raise CloudError(
            f"{name} is a security group of somebody else ({found[0]['GroupId']}); give another --name"
        )
    return found[0] if found else None


def let_in(aws: Aws, run: str, kind: str, ssh_from: str | None, *, here: bool = False) -> str:
    """The security group of `run`: SSH from one address, nothing else.

    Args:
        ssh_from: CIDR; None: nobody.
        here: it is the address of this computer, which changes, and whoever was let in by name stays.

    Returns: its id.
    """
    if found := find_group(aws, run):
        group = str(found["GroupId"])
        spans = [span for rule in found["IpPermissions"] for span in rule["IpRanges"]]
    else:
        specifications = [{"ResourceType": "security-group", "Tags": tags(run, kind)}]
        described = f"trainer cloud: {run}"
        group = aws.ec2.create_security_group(
            GroupName=f"{PROJECT}-{run}",
            Description=described,
            VpcId=_vpc(aws),
            TagSpecifications=specifications,
        )["GroupId"]
        spans = []
    stays = [
        span["CidrIp"]
        for span in spans
        if span["CidrIp"] == ssh_from or (here and span.get("Description") != HERE)
    ]
    if goes := [{"CidrIp": span["CidrIp"]} for span in spans if span["CidrIp"] not in stays]:
        aws.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[_ssh(goes)])
    if ssh_from and ssh_from not in stays:
        span = {"CidrIp": ssh_from, **({"Description": HERE} if here else {})}

        def authorized() -> bool:
            try:
                aws.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[_ssh([span])])
            except Exception as error:
                if (
                    code_of(error) == "InvalidGroup.NotFound"
                ):  # made a moment ago, and not known everywhere yet
                    return False
                raise
            return True

        wait_until(authorized, f"the security group {group}", seconds=120)
    return group


def _ssh(spans: list[dict[str, str]]) -> dict[str, Any]:
    return {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": spans}


def _vpc(aws: Aws) -> str:
    found = aws.pages("describe_vpcs", "Vpcs", Filters=[{"Name": "is-default", "Values": ["true"]}])
    if not found:
        raise CloudError(
            f"there is no default VPC in {aws.region}; make one (AWS's console, VPC, Actions, Create default VPC)"
        )
    return str(found[0]["VpcId"])
