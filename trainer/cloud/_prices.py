"""What things cost: spot prices as AWS has them now, all else from AWS's price lists of us-east-1."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from trainer.cloud._aws import Aws, hours_between
from trainer.errors import CloudError
from trainer.instances import GP3_IOPS, GP3_MB, find_instance

HOURS_A_MONTH = 730
# aws.amazon.com/ebs/pricing and /vpc/pricing, us-east-1, in dollars a month
GP3_GB, GP3_IOPS_MORE, GP3_MB_MORE, SNAPSHOT_GB = 0.08, 0.005, 0.04, 0.05
ADDRESS = 0.005 * HOURS_A_MONTH  # a public IPv4 address
S3_GB = 0.023
# Machines without a GPU, to prepare data on; (vCPUs, dollars an hour on demand), us-east-1
CPU_INSTANCES = {"c6i.xlarge": (4, 0.17), "c6i.2xlarge": (8, 0.34), "c6i.4xlarge": (16, 0.68)}


class Cost(NamedTuple):
    """Something that is paid for by the hour."""

    what: str
    usd_per_month: float

    @property
    def usd_per_hour(self) -> float:
        """Dollars an hour."""
        return self.usd_per_month / HOURS_A_MONTH


def on_demand(instance: str) -> float:
    """Dollars an hour. Raises: ConfigError."""
    return CPU_INSTANCES[instance][1] if instance in CPU_INSTANCES else find_instance(instance).usd_per_hour


def machine_cost(instance: str, usd_per_hour: float, *, spot: bool) -> Cost:
    """A running machine, with its address."""
    return Cost(
        f"{instance} {'spot' if spot else 'on demand'}, and its address",
        usd_per_hour * HOURS_A_MONTH + ADDRESS,
    )


def volume_cost(what: str, gb: float, *, mb: float = GP3_MB, iops: float = GP3_IOPS) -> Cost:
    """A gp3 volume, whether the machine runs or not."""
    more = max(0.0, mb - GP3_MB) * GP3_MB_MORE + max(0.0, iops - GP3_IOPS) * GP3_IOPS_MORE
    return Cost(f"{what}, {gb:,.0f} GB gp3", gb * GP3_GB + more)


def snapshot_cost(gb: float) -> Cost:
    """A snapshot, of which AWS counts the blocks that were written: at most this."""
    return Cost(f"snapshot, up to {gb:,.0f} GB", gb * SNAPSHOT_GB)


def cost_lines(costs: Iterable[Cost]) -> list[str]:
    """A line for each, and their sum."""
    costs = list(costs)
    rows = [*costs, Cost("together", sum(cost.usd_per_month for cost in costs))]
    width = max(len(row.what) for row in rows)
    return [
        f"  {row.what:<{width}}  ${row.usd_per_hour:8.3f} an hour  ${row.usd_per_month:9,.2f} a month"
        for row in rows
    ]


def elsewhere(region: str) -> list[str]:
    """That prices on demand are not those of `region`, where they are not."""
    if region == "us-east-1":
        return []
    return [
        f"  {region} has other prices for disks and on demand; what follows, and --max-dollars, counts in us-east-1's"
    ]


def spot_prices(aws: Aws, instance: str) -> dict[str, float]:
    """Dollars an hour of a spot instance now, by zone."""
    newest: dict[str, Any] = {}
    for one in _history(aws, instance, datetime.now(UTC)):
        zone = one["AvailabilityZone"]
        if zone not in newest or one["Timestamp"] > newest[zone]["Timestamp"]:
            newest[zone] = one
    return {zone: float(one["SpotPrice"]) for zone, one in newest.items()}


def spot_usd_per_hour(aws: Aws, instance: str, zone: str, since: datetime, until: datetime) -> float:
    """Dollars an hour of a spot instance, on average from `since` to `until`. Raises: CloudError."""
    filters = [{"Name": "availability-zone", "Values": [zone]}]
    changes = sorted(
        (max(one["Timestamp"], since), float(one["SpotPrice"]))
        for one in _history(aws, instance, since, EndTime=until, Filters=filters)
    )
    if not changes:
        raise CloudError(f"AWS has no spot price of {instance} in {zone}; look at another --zone")
    ends = [*(at for at, _ in changes[1:]), max(until, since + timedelta(seconds=1))]
    spent = sum(price * hours_between(at, end) for (at, price), end in zip(changes, ends, strict=True))
    hours = hours_between(changes[0][0], ends[-1])
    return spent / hours if hours else changes[-1][1]


def _history(aws: Aws, instance: str, since: datetime, **arguments: Any) -> list[Any]:
    return aws.pages(
        "describe_spot_price_history",
        "SpotPriceHistory",
        InstanceTypes=[instance],
        ProductDescriptions=["Linux/UNIX"],
        StartTime=since,
        **arguments,
    )
