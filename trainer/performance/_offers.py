"""What a sum of money buys: recipes on rented machines, on demand and on spot instances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.config import Recipe
from trainer.instances import INSTANCES, SPOT_SHARE, Instance
from trainer.performance._estimate import estimate


@dataclass(frozen=True)
class Offer:
    """A whole run of one recipe on one machine; hours and dollars are predictions."""

    recipe: str
    bar: float | None  # top-1 that the recipe is for
    instance: str
    gpu: str
    gpus: int
    vcpus: int  # that the quota must allow
    quota: str  # G and VT, or P
    hours: float
    usd: float  # on demand
    spot_usd: float
    images_per_second: float  # of all GPUs together

    def fits(self, budget: float) -> bool:
        """Whether it costs `budget` dollars at most, be it on a spot instance."""
        return min(self.usd, self.spot_usd) <= budget


def offers(
    recipe: Recipe,
    instances: Mapping[str, Instance] = INSTANCES,
    *,
    usd_per_hour: float | None = None,
    spot_usd_per_hour: float | None = None,
    **facts: Any,
) -> list[Offer]:
    """A whole run of `recipe` on each machine, the cheapest first.

    Args:
        recipe: what is trained.
        instances: machines by name.
        usd_per_hour: price of the machine; None: on demand.
        spot_usd_per_hour: price of it as a spot instance; None: SPOT_SHARE of the price on demand.
        facts: more for `estimate`, such as the number of images.
    """
    made = []
    for name, machine in instances.items():
        one = estimate(recipe, machine, usd_per_hour=usd_per_hour, **facts)
        spot = spot_usd_per_hour or machine.usd_per_hour * SPOT_SHARE
        made.append(
            Offer(
                recipe=recipe.name,
                bar=recipe.bar,
                instance=name,
                gpu=machine.gpu,
                gpus=machine.gpus,
                vcpus=machine.vcpus,
                quota=machine.quota,
                hours=one.hours,
                usd=one.usd,
                spot_usd=one.hours * spot,
                images_per_second=one.images_per_second,
            )
        )
    return sorted(made, key=lambda one: (one.usd, one.hours))


def cheapest_of_each_gpu(offered: Iterable[Offer]) -> list[Offer]:
    """Of sorted `offers` the first of each type of GPU."""
    cheapest: dict[str, Offer] = {}
    for offer in offered:
        cheapest.setdefault(offer.gpu, offer)
    return list(cheapest.values())


def cheapest_of_each_bar(offered: Iterable[Sequence[Offer]]) -> list[Sequence[Offer]]:
    """Of the `offers` of several recipes those of the cheapest recipe for each bar, the highest bar first."""
    best: dict[float, Sequence[Offer]] = {}
    for one in offered:
        bar = one[0].bar
        if bar is not None and (bar not in best or one[0].usd < best[bar][0].usd):
            best[bar] = one
    return [one for _, one in sorted(best.items(), reverse=True)]
