"""What a budget can reach, as `trainer estimate --budget` shows it: users' figures first, then predictions of ours."""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainer.config import load_recipe, shipped_recipes

if TYPE_CHECKING:
    from trainer.instances import Instance
    from trainer.performance import Offer, PublishedRun

WHO = 37  # columns for a repository's name


def show_budget(options: Namespace, wanted: Mapping[str, Instance], data: str, facts: dict[str, Any]) -> None:
    """Print what `options.budget` dollars can reach, as tables or as JSON.

    Args:
        options: of `trainer estimate`.
        wanted: machines by name.
        data: the images, in words.
        facts: what `estimate` is told besides recipe and machine.
    """
    from trainer.performance import PUBLISHED, cheapest_of_each_bar, cheapest_of_each_gpu, offers

    budget, until = options.budget, options.until or 0.0
    measured = sorted(
        (
            one
            for one in PUBLISHED
            if one.usd is not None and one.top1 >= until and (not options.instance or one.instance in wanted)
        ),
        key=lambda one: one.usd or 0.0,
    )
    names = [options.recipe] if options.recipe else shipped_recipes()
    recipes = [load_recipe(name, options.set) for name in names]
    prices = {"usd_per_hour": options.price, "spot_usd_per_hour": options.spot_price}
    offered: Sequence[Sequence[Offer]] = [
        cheapest_of_each_gpu(offers(one, wanted, **prices, **facts))
        for one in recipes
        if (one.bar or 0.0) >= until
    ]
    if not options.recipe:
        offered = cheapest_of_each_bar(offered)
    if options.json:
        paid = [{**dataclasses.asdict(one), "usd": one.usd} for one in measured if (one.usd or 0) <= budget]
        predicted = [dataclasses.asdict(one) | {"fits": one.fits(budget)} for ones in offered for one in ones]
        print(
            json.dumps(
                {"budget": budget, "until": options.until, "measured_by_users": paid, "predicted": predicted}
            )
        )
        return
    bar = f", at least {until:.0%} top-1" if until else ""
    print(f"What ${budget:,.2f} can reach{bar}\n{data}")
    _show_measured(measured, budget)
    _show_predicted(offered, budget)
    spot = f"${options.spot_price:g} an hour" if options.spot_price else "taken as 40 % of on demand"
    print(
        "\n*: hours at the price on demand; what they paid is not said. -: over the budget.\n"
        f"Spot is {spot}; it changes, give --spot-price.\n"
        "vCPU: of the quota, which is 0 in new accounts. Preparing the data, volumes and\n"
        "start-up come on top. Keep to it: train … --instance NAME --max-dollars USD"
    )


def _show_measured(measured: Sequence[PublishedRun], budget: float) -> None:
    print("\nMeasured by users of other code, their own figures:")
    within = [one for one in measured if (one.usd or 0) <= budget]
    for one in within:
        print(f"  {_published(one)}")
    if dearer := measured[len(within) :]:
        print(
            f"{'none within it; ' if not within else ''}the next one costs more:\n  {_published(dearer[0])}"
        )
    elif not within:
        print("  none known")


def _published(one: PublishedRun) -> str:
    computed = " " if one.stated_usd is not None else "*"
    who = one.who if len(one.who) <= WHO else f"{one.who[: WHO - 1]}…"
    return f"{one.top1:6.2%} {one.hours:6.1f} h ${one.usd or 0:6.2f}{computed} {one.instance:<12} {who}"


def _show_predicted(offered: Sequence[Sequence[Offer]], budget: float) -> None:
    print("\nPredicted by us; nobody has trained these recipes with this program yet:")
    print(
        f"  {'bar':>3} {'recipe':<16} {'instance':<13} {'GPUs':<7} {'hours':>6} {'on demand':>9} {'spot':>6} vCPU"
    )
    if not offered:
        print("  no shipped recipe is for that much; trainer recipes lists them")
    for ones in offered:
        bar = f"{ones[0].bar:.0%}" if ones[0].bar else "-"
        for one in ones:
            if one.fits(budget):
                prices = [f"${usd:.2f}" if usd <= budget else "-" for usd in (one.usd, one.spot_usd)]
                print(
                    f"  {bar:>3} {one.recipe:<16} {one.instance:<13} {one.gpus} {one.gpu:<5} {one.hours:6.1f} "
                    f"{prices[0]:>9} {prices[1]:>6} {one.vcpus} {one.quota}"
                )
        if not any(one.fits(budget) for one in ones):
            least = ones[0]
            print(
                f"  {bar:>3} {least.recipe:<16} {least.instance:<13} costs more: ${least.usd:.2f}, spot "
                f"${least.spot_usd:.2f}"
            )
