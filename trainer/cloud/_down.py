"""`trainer cloud down`: everything that was made, found by its tags, and what still costs money afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from trainer.cloud._aws import DENIED, PROJECT, Aws, by_tag, code_of, tag, wait_until
from trainer.cloud._launch import ALIVE
from trainer.cloud._plan import Plan, Say
from trainer.cloud._prices import S3_GB, snapshot_cost, volume_cost


class Thing(NamedTuple):
    """Something in AWS that was made for a run."""

    kind: str
    id: str
    run: str
    told: str = ""


# In this order: a persistent spot request starts another machine for one that is terminated, a security group cannot
# go before its machines.
COSTS_MONEY = ("spot request", "instance", "volume", "snapshot")
NOT_TOUCHED = f"buckets are not looked at: what runs were mirrored to costs ${S3_GB} a GB and month in S3"
ORDER = ("spot request", "instance", "volume", "security group", "key pair", "parameter", "role", "snapshot")


def plan_down(aws: Aws, run: str | None, *, snapshots: bool) -> Plan:
    """All that was made for `run`, or for any, and that it goes. `snapshots`: those too."""
    there = things(aws, run)
    going = [one for one in there if snapshots or one.kind != "snapshot"]
    stays = _staying(one for one in there if one not in going)
    stays = [
        *(["what stays, and costs money:"] if stays else []),
        *(f"  {line}" for line in stays),
        NOT_TOUCHED,
    ]
    where = f"{run or PROJECT} in {aws.region}"
    if not going:
        return Plan([f"nothing of {where} is there to be taken down", *stays])
    told = [
        f"of {where}, this goes for good:",
        *(f"  {one.kind} {one.id} ({one.run}) {one.told}".rstrip() for one in going),
    ]
    if any(one.kind == "instance" for one in going):
        told.append(
            "  with its disks: runs that are on no other (--runs-remote, or what you have copied), and MLflow's store"
        )

    def make(say: Say) -> None:
        remove(aws, run, say, snapshots=snapshots)
        left = _staying(things(aws, run))
        say("what still costs money:" if left else f"nothing of {where} is left that costs money")
        for line in left:
            say(f"  {line}")
        say(NOT_TOUCHED)

    return Plan([*told, *stays], make, asks="Take it down?")


def _staying(left: Iterable[Thing]) -> list[str]:
    return [f"{one.kind} {one.id} ({one.run}) {one.told}".rstrip() for one in left if one.kind in COSTS_MONEY]


def things(aws: Aws, run: str | None) -> list[Thing]:
    """All that is there, in the order in which it goes."""
    found = [*_in_ec2(aws, run), *_elsewhere(aws, run)]
    return sorted(found, key=lambda one: ORDER.index(one.kind))


def _in_ec2(aws: Aws, run: str | None) -> Iterator[Thing]:
    ours = by_tag(run)
    alive = [*ours, {"Name": "instance-state-name", "Values": ALIVE}]
    requests, started = {}, {}
    for one in aws.instances(Filters=alive):
        yield _instance(one, tag(one, "Run"))
        if request := one.get("SpotInstanceRequestId"):
            requests[request] = tag(one, "Run")
    for one in aws.pages("describe_spot_instance_requests", "SpotInstanceRequests", Filters=ours):
        if one["State"] in ("open", "active", "disabled"):
            requests[one["SpotInstanceRequestId"]] = tag(one, "Run")
        if name := one.get("InstanceId"):
            started[name] = tag(one, "Run")
    # What AWS starts for an open request has no tags; it stays when the request is cancelled.
    there = [{"Name": "instance-id", "Values": [*started]}, alive[-1]]
    for one in aws.instances(Filters=there) if started else ():
        if not tag(one, "Project"):
            yield _instance(one, started[one["InstanceId"]])
    for request, owner in requests.items():
        yield Thing("spot request", request, owner)
    for one in aws.pages("describe_volumes", "Volumes", Filters=ours):
        if not one["Attachments"]:  # those of a machine go with it
            cost = volume_cost("volume", one["Size"]).usd_per_month
            yield Thing("volume", one["VolumeId"], tag(one, "Run"), f"{one['Size']} GB, ${cost:.2f} a month")
    for one in aws.pages("describe_security_groups", "SecurityGroups", Filters=ours):
        yield Thing("security group", one["GroupId"], tag(one, "Run"))
    for one in aws.ec2.describe_key_pairs(Filters=ours)["KeyPairs"]:
        yield Thing("key pair", one["KeyName"], tag(one, "Run"))
    for one in aws.pages("describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=ours):
        cost = snapshot_cost(one["VolumeSize"]).usd_per_month
        yield Thing(
            "snapshot",
            one["SnapshotId"],
            tag(one, "Run"),
            f"{one['VolumeSize']} GB, up to ${cost:.2f} a month",
        )


def _instance(one: dict[str, Any], run: str) -> Thing:
    return Thing("instance", one["InstanceId"], run, f"{one['InstanceType']}, {one['State']['Name']}")


def _elsewhere(aws: Aws, run: str | None) -> Iterator[Thing]:
    names = [
        {"Key": "Name", "Option": "BeginsWith", "Values": [f"/{PROJECT}/{run}/" if run else f"/{PROJECT}/"]},
        {"Key": "tag:Project", "Values": [PROJECT]},
    ]
    for one in _if_allowed(aws, "ssm", "describe_parameters", "Parameters", ParameterFilters=names):
        if ours := re.fullmatch(rf"/{PROJECT}/([a-z0-9-]+)/env", one["Name"]):
            yield Thing("parameter", one["Name"], ours[1])
    start, path = f"{PROJECT}-{aws.region}-", f"/{PROJECT}/"
    roles = _if_allowed(aws, "iam", "list_roles", "Roles", PathPrefix=path)
    profiles = _if_allowed(aws, "iam", "list_instance_profiles", "InstanceProfiles", PathPrefix=path)
    # Either may be there without the other, if their making was cut off.
    for name in sorted(
        {*(one["RoleName"] for one in roles), *(one["InstanceProfileName"] for one in profiles)}
    ):
        owner = name.removeprefix(start)
        if name.startswith(start) and run in (None, owner):
            yield Thing("role", name, owner)


def _if_allowed(aws: Aws, service: str, operation: str, key: str, **arguments: Any) -> list[Any]:
    """What is listed; nothing for who may not look, and so could not have made it: machines must go all the same."""
    try:
        return aws.pages(operation, key, service=service, **arguments)
    except Exception as error:
        if code_of(error) not in DENIED:
            raise
        return []


def remove(aws: Aws, run: str | None, say: Say, *, snapshots: bool) -> None:
    """Take it down, and wait until it is gone. What is gone already is no error."""

    def named(kind: str) -> list[str]:
        names = list(dict.fromkeys(one.id for one in there if one.kind == kind))
        if names:
            say(f"{kind}: {', '.join(names)}")
        return names

    there = things(aws, run)
    if requests := named("spot request"):
        aws.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=requests)
        # It may have started a machine until a moment ago, and what it started may be found by it alone.
        there += things(aws, run)
    if machines := named("instance"):
        aws.ec2.terminate_instances(InstanceIds=machines)
        wait_until(lambda: _all_terminated(aws, machines), "the end of the machines")
    for kind in ORDER[2:]:
        if kind != "snapshot" or snapshots:
            for name in named(kind):
                _remove_one(aws, kind, name)


def _all_terminated(aws: Aws, instances: list[str]) -> bool:
    return all(one["State"]["Name"] == "terminated" for one in aws.instances(InstanceIds=instances))


def _remove_one(aws: Aws, kind: str, name: str) -> None:
    try:
        if kind == "volume":
            aws.ec2.delete_volume(VolumeId=name)
        elif kind == "security group":
            wait_until(lambda: _group_is_gone(aws, name), f"the security group {name}")
        elif kind == "key pair":
            aws.ec2.delete_key_pair(KeyName=name)
        elif kind == "parameter":
            aws.client("ssm").delete_parameter(Name=name)
        elif kind == "snapshot":
            aws.ec2.delete_snapshot(SnapshotId=name)
        else:
            _remove_role(aws, name)
    except Exception as error:
        if not code_of(error).endswith(".NotFound") and code_of(error) != "ParameterNotFound":
            raise


def _group_is_gone(aws: Aws, group: str) -> bool:
    try:
        aws.ec2.delete_security_group(GroupId=group)
    except Exception as error:
        if code_of(error) == "DependencyViolation":  # a terminated machine holds its network card for a while
            return False
        raise
    return True


def _remove_role(aws: Aws, name: str) -> None:
    iam = aws.client("iam")
    gone = iam.exceptions.NoSuchEntityException
    with suppress(gone):
        for role in iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]:
            iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=role["RoleName"])
        iam.delete_instance_profile(InstanceProfileName=name)
    with suppress(gone):
        iam.delete_role_policy(RoleName=name, PolicyName=PROJECT)
    with suppress(gone):
        iam.delete_role(RoleName=name)
