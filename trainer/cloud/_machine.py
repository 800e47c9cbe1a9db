"""What a machine that is there says of itself: by EC2, and on its console."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from trainer.cloud._aws import Aws, code_of, hours_between, tag
from trainer.cloud._launch import DATA_DEVICE
from trainer.cloud._prices import Cost, on_demand, spot_usd_per_hour, volume_cost
from trainer.errors import TrainerError

# Why a spot instance is stopped: docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-request-status.html
INTERRUPTED = {
    "instance-stopped-by-price": "the spot price is above the highest that was allowed",
    "instance-stopped-no-capacity": "AWS needed the machine",
    "instance-stopped-capacity-oversubscribed": "AWS needed the machine",
    "marked-for-stop": "AWS is about to stop the machine",
}


@dataclass(frozen=True)
class Said:
    """The newest line `trainer: state=… key=value … words` of a console."""

    state: str = ""
    facts: dict[str, str] = field(default_factory=dict)  # epoch, epochs, top1, starts, hours
    words: str = ""

    @classmethod
    def parse(cls, console: str) -> Said:
        """Take the last such line; an empty one if there is none."""
        lines = re.findall(r"trainer: state=([a-z]+)(.*)", console)
        if not lines:
            return cls()
        state, rest = lines[-1]
        facts = dict(re.findall(r"(epochs?|top1|starts|hours)=([0-9.]+)", rest))
        words = re.sub(r"(epochs?|top1|starts|hours)=[0-9.]+", "", rest).strip().removeprefix("reason=")
        return cls(state, facts, "".join(letter for letter in words if letter.isprintable()))

    def number(self, fact: str) -> float | None:
        """One of the facts."""
        try:
            return float(self.facts[fact])
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True)
class Found:
    """An instance that was made for a run."""

    facts: dict[str, Any]  # as DescribeInstances has them
    said: Said = field(default_factory=Said)
    interrupted: str = ""  # why AWS has stopped it

    @property
    def run(self) -> str:
        """The run's name."""
        return tag(self.facts, "Run")

    @property
    def kind(self) -> str:
        """ "data" or "train"."""
        return tag(self.facts, "Kind")

    @property
    def id(self) -> str:
        """AWS's name of it."""
        return str(self.facts["InstanceId"])

    @property
    def state(self) -> str:
        """pending, running, stopping or stopped."""
        return str(self.facts["State"]["Name"])

    @property
    def spot(self) -> bool:
        """Whether it is a spot instance."""
        return self.facts.get("InstanceLifecycle") == "spot"

    @property
    def address(self) -> str:
        """Where it is reached from outside; empty while it is stopped."""
        return str(self.facts.get("PublicDnsName") or self.facts.get("PublicIpAddress") or "")

    @property
    def zone(self) -> str:
        """The zone it is in."""
        return str(self.facts["Placement"]["AvailabilityZone"])

    @property
    def data_volume(self) -> str | None:
        """The volume of the data set."""
        mappings = self.facts.get("BlockDeviceMappings", [])
        disks = {one["DeviceName"]: one["Ebs"]["VolumeId"] for one in mappings}
        return disks.get(DATA_DEVICE)

    def until(self) -> datetime:
        """Now, or when it was stopped."""
        # "User initiated (2026-11-26 10:00:00 GMT)"
        at = re.search(
            r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) \w+\)", self.facts.get("StateTransitionReason") or ""
        )
        if self.state in ("stopped", "stopping") and at:
            return datetime.strptime(at[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        return datetime.now(UTC)

    def hours(self) -> float:
        """How long it ran: over all its starts if it has said so, otherwise since the last."""
        return self.said.number("hours") or hours_between(self.facts["LaunchTime"], self.until())


def look(aws: Aws, facts: dict[str, Any]) -> Found:
    """Ask for the rest that is known of an instance."""
    interrupted = ""
    if request := facts.get("SpotInstanceRequestId"):
        filters = [{"Name": "spot-instance-request-id", "Values": [request]}]
        asked = aws.pages("describe_spot_instance_requests", "SpotInstanceRequests", Filters=filters)
        interrupted = next(
            (INTERRUPTED.get(one["Status"]["Code"], "") for one in asked if "Status" in one), ""
        )
    # Once the request is open again, waiting for capacity, it says why that is not there: the machine still says who.
    if not interrupted and _taken_away(facts):
        interrupted = "AWS needed the machine"
    return Found(facts, Said.parse(console(aws, facts)), interrupted)


def _taken_away(facts: dict[str, Any]) -> bool:
    """Whether AWS has stopped a spot instance, and neither its owner nor itself."""
    stopped = facts["State"]["Name"] in ("stopping", "stopped")
    return stopped and str(facts.get("StateReason", {}).get("Code") or "").startswith("Server.")


def console(aws: Aws, facts: dict[str, Any]) -> str:
    """What the instance wrote to its console; AWS keeps it for an hour or more after it has ended."""
    name = facts["InstanceId"]
    # AWS hands out the latest of Nitro's at any time; what it keeps by itself is some minutes behind a stop.
    for latest in ({"Latest": True}, {}):
        try:
            if text := str(aws.ec2.get_console_output(InstanceId=name, **latest).get("Output") or ""):
                return text
        except Exception as error:
            if code_of(error) not in ("UnsupportedOperation", "IncorrectInstanceState"):
                raise
    return ""


def usd_per_hour(aws: Aws, found: Found) -> float | None:
    """What it costs while it runs; None if nobody knows."""
    instance = str(found.facts["InstanceType"])
    try:
        if found.spot:
            return spot_usd_per_hour(aws, instance, found.zone, found.facts["LaunchTime"], found.until())
        return on_demand(instance)
    except TrainerError:
        return None


def disks(aws: Aws, found: Found) -> tuple[Cost, float]:
    """What its volumes cost, and the hours for which they have been there."""
    mappings = [one["Ebs"] for one in found.facts.get("BlockDeviceMappings", [])]
    if not mappings:  # it is pending: its volumes are not there yet, and asked for none, AWS lists them all
        return Cost("its disks", 0.0), 0.0
    volumes = aws.pages("describe_volumes", "Volumes", VolumeIds=[one["VolumeId"] for one in mappings])
    costs = [
        volume_cost("disk", one["Size"], mb=one.get("Throughput") or 0, iops=one.get("Iops") or 0)
        for one in volumes
    ]
    since = min(one["AttachTime"] for one in mappings)
    total = sum(cost.usd_per_month for cost in costs)
    return Cost(f"its disks, {sum(one['Size'] for one in volumes)} GB", total), hours_between(
        since, datetime.now(UTC)
    )
