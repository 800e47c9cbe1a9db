"""Whether an account can start a GPU machine: credentials, quotas, prices, images, keys, network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from trainer.cloud._aws import DENIED, Aws, code_of
from trainer.cloud._launch import newest_image, subnets
from trainer.cloud._prices import CPU_INSTANCES, on_demand, spot_prices
from trainer.errors import CloudError
from trainer.instances import INSTANCES, find_instance

# AWS's Deep Learning Base AMI: NVIDIA's driver, Docker with Compose, the Container Toolkit.
GPU_IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
CPU_IMAGE = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"

# As `aws service-quotas list-service-quotas --service-code ec2` lists them; a quota counts the vCPUs of what runs.
QUOTAS = {
    ("G and VT", True): ("L-3819A6DF", "All G and VT Spot Instance Requests"),
    ("G and VT", False): ("L-DB2E81BA", "Running On-Demand G and VT instances"),
    ("P4, P3 and P2", True): ("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests"),
    ("P5", True): ("L-C4BD4855", "All P5 Spot Instance Requests"),
    ("P", False): ("L-417A185B", "Running On-Demand P instances"),
    ("Standard", False): ("L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"),
}


DATA_VCPUS = CPU_INSTANCES["c6i.2xlarge"][0]  # what `trainer cloud data` takes, unless another is given


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    good: bool
    found: str
    todo: str = ""  # where it is not good
    needed: bool = True  # whether nothing can be started without it


def quota(aws: Aws, kind: str, *, spot: bool) -> float:
    """vCPUs that this account may run at once of instances of a kind, as in QUOTAS."""
    client, asked = aws.client("service-quotas"), {"ServiceCode": "ec2", "QuotaCode": QUOTAS[kind, spot][0]}
    try:
        answer = client.get_service_quota(**asked)
    except client.exceptions.NoSuchResourceException:  # never changed for this account
        answer = client.get_aws_default_service_quota(**asked)
    return float(answer["Quota"]["Value"])


def require_quota(aws: Aws, instance: str, *, spot: bool) -> None:
    """Raises: CloudError if `instance` is more than this account may run; no right to ask is no reason."""
    kind, vcpus = _need(instance, spot=spot)
    try:
        allowed = quota(aws, kind, spot=spot)
    except Exception as error:
        if code_of(error) in DENIED:
            return
        raise
    if allowed < vcpus:
        raise CloudError(
            f"{instance} needs {vcpus} vCPUs of the quota “{QUOTAS[kind, spot][1]}” in {aws.region}, which is "
            f"{allowed:.0f}; {_ask_for(aws, kind, vcpus, spot=spot)}"
        )


def _need(instance: str, *, spot: bool) -> tuple[str, int]:
    """The kind of quota that counts a type, and its vCPUs."""
    if instance in CPU_INSTANCES:
        return "Standard", CPU_INSTANCES[instance][0]
    machine = find_instance(instance)
    if spot and machine.quota == "P":  # on demand, one quota counts them all
        return "P5" if instance.startswith("p5") else "P4, P3 and P2", machine.vcpus
    return machine.quota, machine.vcpus


def look_at(aws: Aws, instance: str, key: str | None, keys: list[str], *, ssm: bool) -> Iterator[Finding]:
    """Look at one thing after the other.

    Args:
        instance: the type that shall be started.
        key: name of the key pair that shall be used, or None for one of `keys`.
        keys: this computer's public SSH keys.
        ssm: no key is needed.

    Raises: CloudError without credentials or region; ConfigError for a type that is not known.
    """
    hourly = on_demand(instance)
    yield Finding("credentials", True, aws.who())
    yield Finding("region", True, aws.region)
    for one, spot in QUOTAS:
        kind, vcpus = _need(instance, spot=spot)
        yield _quota(aws, one, spot, vcpus, needed=one == kind)
    yield _price(aws, instance, hourly)
    yield _image(aws)
    yield _network(aws)
    if not ssm:
        yield _key(aws, key, keys)


def _quota(aws: Aws, kind: str, spot: bool, vcpus: int, *, needed: bool) -> Finding:
    code, name = QUOTAS[kind, spot]
    try:
        allowed = quota(aws, kind, spot=spot)
    except Exception as error:
        if code_of(error) not in DENIED:
            raise
        return Finding(
            name, False, "may not be read", "allow servicequotas:GetServiceQuota to see it", needed=False
        )
    types = [known for known in (*INSTANCES, *CPU_INSTANCES) if _fits(known, kind, allowed, spot=spot)]
    found = f"{allowed:.0f} vCPUs" + (f": {', '.join(types)}" if types else ": none of the known types")
    if kind == "Standard" and not needed and allowed < DATA_VCPUS:
        ask = _ask_for(aws, kind, DATA_VCPUS, spot=spot)
        todo = f"./scripts/cloud data takes {DATA_VCPUS}, or 4 with --instance c6i.xlarge; {ask}"
        return Finding(name, False, found, todo, needed=False)
    if allowed >= vcpus or not needed:
        return Finding(name, bool(types), found, f"quota {code}", needed=False)
    # One of spot and on demand is enough; that one is told too. Data is prepared on demand alone.
    return Finding(
        name, False, found, _ask_for(aws, kind, vcpus, spot=spot), needed=spot or kind == "Standard"
    )


def _fits(instance: str, kind: str, vcpus: float, *, spot: bool) -> bool:
    its_kind, need = _need(instance, spot=spot)
    return its_kind == kind and need <= vcpus


def _ask_for(aws: Aws, kind: str, vcpus: int, *, spot: bool) -> str:
    code = QUOTAS[kind, spot][0]
    return (
        f"ask for {vcpus} or more, which takes AWS hours to days: "
        f"https://{aws.region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/{code}"
    )


def _price(aws: Aws, instance: str, hourly: float) -> Finding:
    told = f"{instance} ${hourly:.3f} an hour on demand (us-east-1)"
    if instance in CPU_INSTANCES:
        return Finding("price", True, told)
    prices = sorted((price, zone) for zone, price in spot_prices(aws, instance).items())
    if not prices:
        return Finding(
            "price now", False, told, f"{instance} has no spot price in {aws.region}; try another --region"
        )
    shown = ", ".join(f"${price:.3f} in {zone}" for price, zone in prices)
    return Finding("price now", True, f"spot {shown}; {told}")


def _image(aws: Aws) -> Finding:
    try:
        return Finding("Deep Learning AMI", True, newest_image(aws, GPU_IMAGE).id)
    except Exception as error:
        if code_of(error) != "ParameterNotFound":
            raise
        return Finding(
            "Deep Learning AMI", False, f"no {GPU_IMAGE}", "try another --region, such as us-east-1"
        )


def _network(aws: Aws) -> Finding:
    try:
        return Finding("default VPC", True, f"a subnet in {', '.join(sorted(subnets(aws)))}")
    except CloudError as error:
        return Finding("default VPC", False, "none", str(error).partition("; ")[2])


def _key(aws: Aws, key: str | None, keys: list[str]) -> Finding:
    there = sorted(one["KeyName"] for one in aws.ec2.describe_key_pairs()["KeyPairs"])
    if key is not None:
        return Finding("SSH key", key in there, f"{key}: {'is' if key in there else 'is not'} in EC2", _KEY)
    if keys:
        return Finding("SSH key", True, f"{keys[0]} of this computer goes to the machine")
    return Finding("SSH key", False, f"none here; in EC2: {', '.join(there) or 'none'}", _KEY)


_KEY = "make one (ssh-keygen -t ed25519), or give --key NAME of one in EC2, or do without SSH: --ssm"
