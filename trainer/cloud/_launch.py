"""One machine and what it needs around it: each found by its tags, and made where it is missing.

A command that was killed anywhere and is given again makes nothing twice: names are fixed, the instance is found by its
tags, and a client token says to AWS that it is the same request.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from trainer.cloud._aws import PROJECT, Aws, by_tag, code_of, tag, tags, wait_until
from trainer.cloud._group import find_group, let_in
from trainer.cloud._prices import spot_prices
from trainer.errors import CloudError

DATA_DEVICE = "/dev/sdf"
ALIVE = ["pending", "running", "stopping", "stopped"]

Statement = dict[str, Any]  # of a policy of IAM


class Image(NamedTuple):
    """What a machine boots from."""

    id: str
    device: str  # of its root disk
    gb: int  # that this has at least


class Place(NamedTuple):
    """A zone where a machine can be."""

    zone: str
    subnet: str
    usd_per_hour: float | None  # of a spot instance


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A gp3 volume."""

    gb: int
    snapshot: str | None = None
    throughput: int = 125  # MB/s
    iops: int = 3000

    def mapping(self, device: str) -> dict[str, Any]:
        """As RunInstances takes it. It goes when the machine is terminated, and stays when it is stopped."""
        size = {"VolumeSize": self.gb, "Throughput": self.throughput, "Iops": self.iops}
        source = {"SnapshotId": self.snapshot} if self.snapshot else {}
        return {
            "DeviceName": device,
            "Ebs": {"VolumeType": "gp3", "DeleteOnTermination": True, **size, **source},
        }


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is asked for."""

    run: str
    kind: str  # "data" or "train"
    instance: str
    image: Image
    user_data: str
    root: Disk
    data: Disk | None
    spot: bool = False
    max_price: float | None = None  # dollars an hour
    ssm: bool = False  # reached by SSM's session manager, with no port open
    ssh_from: str | None = None  # CIDR that may come in by SSH; None: nobody
    ssh_from_here: bool = False  # that is the address of this computer, which nobody has given
    key: str | None = None  # name of a key pair in EC2; None: the public key below
    public_key: Path | None = None
    profile: str | None = None  # instance profile of the user's own
    rights: Sequence[Statement] = field(default_factory=tuple)  # for a role that is made

    @property
    def may(self) -> str:
        """What it may do in AWS, in words."""
        if self.profile:
            return f"what {self.profile} allows"
        actions = [one["Action"] for one in self.rights]
        return (
            ", ".join(dict.fromkeys(a if isinstance(a, str) else " ".join(a) for a in actions)) or "nothing"
        )


def find_machine(aws: Aws, run: str) -> dict[str, Any] | None:
    """The instance of `run`, running or stopped. Raises: CloudError if there are several."""
    filters = [*by_tag(run), {"Name": "instance-state-name", "Values": ALIVE}]
    found = aws.instances(Filters=filters)
    if len(found) > 1:
        ids = ", ".join(one["InstanceId"] for one in found)
        raise CloudError(
            f"{run} has {len(found)} machines, {ids}; take them down: ./scripts/cloud down {run}"
        )
    return found[0] if found else None


def newest_image(aws: Aws, parameter: str) -> Image:
    """The image that a parameter of SSM names. Raises: CloudError."""
    image_id = aws.client("ssm").get_parameter(Name=parameter)["Parameter"]["Value"]
    found = aws.ec2.describe_images(ImageIds=[image_id])["Images"]
    if not found:
        raise CloudError(f"{image_id}, which {parameter} names, is not in {aws.region}; try another --region")
    device = found[0].get("RootDeviceName", "/dev/sda1")
    sizes = [
        one["Ebs"].get("VolumeSize", 0) for one in found[0].get("BlockDeviceMappings", []) if "Ebs" in one
    ]
    return Image(image_id, device, max(sizes, default=0))


def subnets(aws: Aws) -> dict[str, str]:
    """The default VPC's subnets by zone. Raises: CloudError."""
    filters = [{"Name": "default-for-az", "Values": ["true"]}]
    found = {
        one["AvailabilityZone"]: one["SubnetId"]
        for one in aws.pages("describe_subnets", "Subnets", Filters=filters)
    }
    if not found:
        raise CloudError(
            f"there is no default VPC in {aws.region}; make one (AWS's console, VPC, Actions, Create default VPC)"
        )
    return found


def places(aws: Aws, instance: str, *, spot: bool, zone: str | None = None) -> list[Place]:
    """Where the type is offered, the cheapest spot price first. Raises: CloudError."""
    filters = [{"Name": "instance-type", "Values": [instance]}]
    offers = aws.pages(
        "describe_instance_type_offerings",
        "InstanceTypeOfferings",
        LocationType="availability-zone",
        Filters=filters,
    )
    networks = subnets(aws)
    offered = sorted({one["Location"] for one in offers} & set(networks))
    if not offered:
        raise CloudError(f"{instance} is not offered in {aws.region}; try another --region or --instance")
    if zone is not None and zone not in offered:
        raise CloudError(
            f"{instance} is not offered in {zone}; in {aws.region} it is in {', '.join(offered)}"
        )
    wanted = [zone] if zone else offered
    if not spot:
        return [Place(one, networks[one], None) for one in wanted]
    prices = spot_prices(aws, instance)
    priced = [Place(one, networks[one], prices[one]) for one in wanted if one in prices]
    if not priced:
        raise CloudError(
            f"AWS has no spot price of {instance} in {', '.join(wanted)} now; try without --spot"
        )
    return sorted(priced, key=lambda place: prices[place.zone])


def launch(aws: Aws, machine: Machine, where: Sequence[Place]) -> dict[str, Any]:
    """Make the machine in the first of the zones that has room for it, with all that it needs. Raises: CloudError."""
    profile = machine.profile or (
        give_rights(aws, machine.run, machine.kind, machine.rights) if machine.rights else None
    )
    key = _key_pair(aws, machine)
    before = tag(find_group(aws, machine.run) or {}, "Launched")
    group = let_in(aws, machine.run, machine.kind, machine.ssh_from, here=machine.ssh_from_here)
    request = {
        "ImageId": machine.image.id,
        "InstanceType": machine.instance,
        "MinCount": 1,
        "MaxCount": 1,
        "UserData": machine.user_data,
        "SecurityGroupIds": [group],
        "BlockDeviceMappings": [
            machine.root.mapping(machine.image.device),
            *([machine.data.mapping(DATA_DEVICE)] if machine.data else []),
        ],
        # Two hops: the trainer in its container asks for spot notices, and for the role's credentials.
        "MetadataOptions": {
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 2,
            "HttpEndpoint": "enabled",
        },
        "InstanceInitiatedShutdownBehavior": "stop",
        "TagSpecifications": [
            {
                "ResourceType": one,
                "Tags": tags(machine.run, machine.kind, Access="ssm" if machine.ssm else "ssh"),
            }
            for one in ("instance", "volume", *(["spot-instances-request"] if machine.spot else []))
        ],
        **({"KeyName": key} if key else {}),
        **({"IamInstanceProfile": {"Name": profile}} if profile else {}),
        **({"InstanceMarketOptions": _spot(machine)} if machine.spot else {}),
    }
    for number, place in enumerate(where, start=1):
        try:
            # Asked again, it is the same machine; after one that is gone, it is another.
            what = f"{group} {before} {place.zone} {machine.instance}"
            return _listed(
                aws, machine.run, group, _run(aws, machine.run, {**request, "SubnetId": place.subnet}, what)
            )
        except Exception as error:
            if code_of(error) not in ("InsufficientInstanceCapacity", "Unsupported") or number == len(where):
                raise
    raise AssertionError("there is a zone")


def _run(aws: Aws, run: str, request: dict[str, Any], what: str) -> str:
    token = hashlib.sha256(what.encode()).hexdigest()[:40]
    started: list[dict[str, Any]] = []

    def asked() -> bool:
        try:
            started.extend(aws.ec2.run_instances(**request, ClientToken=token)["Instances"])
        except Exception as error:
            # What was made a moment ago is not known everywhere yet: a profile, the role in it, a security group.
            role = code_of(error) == "InvalidParameterValue" and re.search(
                "instance ?profile", str(error), re.IGNORECASE
            )
            if role or code_of(error) == "InvalidGroup.NotFound":
                return False
            if code_of(error) == "IdempotentParameterMismatch":
                raise CloudError(
                    f"a machine of {run} was asked for a moment ago with other options; look at `./scripts/cloud "
                    f"status {run}` in a minute, or take it down first: ./scripts/cloud down {run}"
                ) from error
            raise
        return True

    wait_until(asked, "the role or the security group of the machine", seconds=120)
    return str(started[0]["InstanceId"])


def _listed(aws: Aws, run: str, group: str, name: str) -> dict[str, Any]:
    """The machine as AWS lists it, noted at its group: the next one is another. Raises: CloudError if it has ended."""
    found: dict[str, Any] = {}

    def there() -> bool:
        filters = [{"Name": "instance-id", "Values": [name]}]
        for listed in aws.instances(Filters=filters):
            found.update(listed)
        return bool(found)

    with suppress(CloudError):  # one that was terminated an hour ago is listed no more
        wait_until(there, f"the machine {name}", seconds=120)
    aws.ec2.create_tags(Resources=[group], Tags=[{"Key": "Launched", "Value": name}])
    if not found or found["State"]["Name"] in ("shutting-down", "terminated"):
        why = found.get("StateReason", {}).get("Message") or "it is gone"
        raise CloudError(f"AWS has ended {name} of {run}: {why}; the same command makes another")
    return found


def _spot(machine: Machine) -> dict[str, Any]:
    options = {"SpotInstanceType": "persistent", "InstanceInterruptionBehavior": "stop"}
    price = {} if machine.max_price is None else {"MaxPrice": f"{machine.max_price:g}"}
    return {"MarketType": "spot", "SpotOptions": {**options, **price}}


def _key_pair(aws: Aws, machine: Machine) -> str | None:
    if machine.key or machine.public_key is None:
        return machine.key
    name = f"{PROJECT}-{machine.run}"
    if not aws.ec2.describe_key_pairs(Filters=[{"Name": "key-name", "Values": [name]}])["KeyPairs"]:
        aws.ec2.import_key_pair(
            KeyName=name,
            PublicKeyMaterial=machine.public_key.read_bytes(),
            TagSpecifications=[{"ResourceType": "key-pair", "Tags": tags(machine.run, machine.kind)}],
        )
    return name


def role_name(aws: Aws, run: str) -> str:
    """Name of the role and of the instance profile; IAM has no regions, so it says the region."""
    return f"{PROJECT}-{aws.region}-{run}"


def give_rights(aws: Aws, run: str, kind: str, rights: Sequence[Statement]) -> str:
    """A role with these rights alone, in an instance profile of its name. Returns: the name."""
    iam, name = aws.client("iam"), role_name(aws, run)
    labels = tags(run, kind)
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    exists = iam.exceptions.EntityAlreadyExistsException
    with suppress(exists):
        iam.create_role(
            RoleName=name, Path=f"/{PROJECT}/", AssumeRolePolicyDocument=_policy([trust]), Tags=labels
        )
    iam.put_role_policy(RoleName=name, PolicyName=PROJECT, PolicyDocument=_policy(rights))
    with suppress(exists):
        iam.create_instance_profile(InstanceProfileName=name, Path=f"/{PROJECT}/", Tags=labels)
    if not iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return name


def _policy(statements: Sequence[Statement]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
