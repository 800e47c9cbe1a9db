"""Budgets of a run, checked before it starts: --max-hours, --max-dollars, --until-top1, and --fit.

None of them is part of what is trained: the same command with another budget goes on with the same run. Only --fit
makes another run of it, with fewer epochs.
"""

from __future__ import annotations

import dataclasses
import glob
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from trainer import metrics, ranks
from trainer.config import Recipe, load_recipe, shipped_recipes
from trainer.errors import ConfigError
from trainer.files import read_json, write_json
from trainer.instances import INSTANCES, find_instance
from trainer.performance import estimate, offers
from trainer.run._eta import dollars, duration
from trainer.run._options import StartOptions, TrainOptions
from trainer.run._pace import Pace, epochs_before, most_epochs, numbers_of_epochs, settings_of, shortened
from trainer.run._plan import Plan, make_plan
from trainer.run._result import read_result
from trainer.tracking import RunHistory, read_journal

FITTED = "fitted.json"  # in the folder of a run that --fit has made: of what, and for which budget
SLACK = 1.1  # a run that has begun may be so much longer than its budget: it is too late to be strict

Whole = Callable[[Recipe], float]  # seconds of a whole run
Options = TypeVar("Options", bound=StartOptions)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limit:
    """The tighter of --max-hours and --max-dollars."""

    seconds: float  # of all starts of the run together
    words: str  # as in "--max-hours 2"


@dataclass(frozen=True)
class Budgeted:
    """A run whose budget allows it."""

    plan: Plan
    options: TrainOptions  # with the price of its --instance, and the settings that --fit has found
    told: str = ""  # what is expected of it, in words; empty without a limit

    def begin(self, asked: TrainOptions) -> None:
        """Say what is expected, and note what --fit made of a command: it finds the run again, on whatever machine."""
        if self.told:
            logger.info("%s", self.told)
        if asked.fit and self.options.set != asked.set:
            recipe = load_recipe(asked.recipe, asked.set)
            settings = self.options.set[len(asked.set) :]
            of_command = _of_command(asked, recipe, self.plan)
            content = {**of_command, "epochs": self.plan.recipe.epochs, "set": settings}
            self.plan.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.plan.folder / FITTED, content)


def limit_of(options: StartOptions) -> Limit | None:
    """The time that the run may take, on all machines at once; None: any."""
    limits = []
    if options.max_hours is not None:
        limits.append(Limit(3600 * options.max_hours, f"--max-hours {options.max_hours:g}"))
    if options.max_dollars is not None:
        if options.price is None:
            raise ConfigError(
                "--max-dollars needs the price of the machine: give --price USD (an hour), or --instance NAME"
            )
        an_hour = options.price * ranks.machines()
        limits.append(Limit(3600 * options.max_dollars / an_hour, f"--max-dollars {options.max_dollars:g}"))
    return min(limits, key=lambda limit: limit.seconds, default=None)


def within_budget(asked: TrainOptions, *, restore: Callable[[Plan], None] = lambda plan: None) -> Budgeted:
    """`make_plan`, with a check that the run's budget allows it; with --fit, a shorter run that it allows.

    Args:
        asked: the options as they were given.
        restore: fetches what another machine has done of a plan's run, which counts.

    Raises: ConfigError, DataError; ConfigError as well if the budget is too small, with what would fit.
    """
    options = priced(asked)
    plan = make_plan(options)
    if options.fit:
        if (limit := limit_of(options)) is None:
            raise ConfigError(
                "--fit needs a budget to fit the schedule to: give --max-hours or --max-dollars"
            )
        fitted, options = _fit(plan, options, limit)
        plan, options = fitted, dataclasses.replace(options, fit=False)  # it is done
    restore(plan)
    return Budgeted(plan, options, check_budget(plan, options))


def priced(options: Options) -> Options:
    """The options with the price of their --instance, unless another is given. Raises: ConfigError."""
    if not options.instance:
        return options
    return dataclasses.replace(options, price=options.price or find_instance(options.instance).usd_per_hour)


def check_budget(plan: Plan, options: StartOptions) -> str:
    """What is expected of the run, in words; empty without a limit. Raises: ConfigError if that is too much."""
    limit = limit_of(options)
    # One process decides for all.
    if ranks.launched_by_trainer() or ranks.rank() != 0 or read_result(plan.folder):
        return ""
    bar = plan.recipe.bar
    if options.until_top1 and bar and options.until_top1 > bar:
        logger.warning(
            "--until-top1 %g is more than %s is for, %g: it may end without reaching it; trainer recipes lists others",
            options.until_top1,
            plan.recipe.name,
            bar,
        )
    if limit is None:
        return ""
    forecast = Forecast(plan, options)
    if forecast.trained:
        return "trained already"
    if forecast.elapsed >= limit.seconds:
        raise ConfigError(
            f"the run in {plan.folder} has taken {duration(forecast.elapsed)} already, which is all that {limit.words} "
            "allows; give more to go on"
        )
    seconds = forecast.seconds()
    if seconds is None:
        return f"its first steps will tell whether {limit.words} is enough"
    told = f"about {duration(seconds)}{_price(seconds, options)} of {limit.words}, {forecast.basis}"
    if seconds <= limit.seconds:
        return told
    if forecast.elapsed and seconds <= SLACK * limit.seconds:
        logger.warning("the run takes %s; it is stopped when that is spent", told)
        return told
    raise _refused(plan, options, limit, seconds, forecast)


def too_small(
    recipe: Recipe, limit: Limit, seconds: float, basis: str, whole: Whole, *, begun: float = 0
) -> str:
    """That a budget is too small, and how many epochs would fit.

    Args:
        recipe: what is trained.
        limit: the budget.
        seconds: that the run takes.
        basis: where that is known from, in words.
        whole: seconds of a whole run of a recipe.
        begun: epochs of the run that it extends, which count among its own.
    """
    fits = most_epochs(recipe, limit.seconds, whole, begun=begun)
    how = " ".join(f"--set {one}" for one in settings_of(shortened(recipe, fits))) if fits else ""
    how = f"with --epochs {fits}" if begun else f"as a run of its own ({how}, or --fit)"
    fewest = next(iter(numbers_of_epochs(recipe)), recipe.epochs)
    none = (
        f"not even {fewest} epochs fit, the fewest that its phases allow"
        if fewest > 1 and not begun
        else "not one epoch fits"
    )
    what = f"what is left of {recipe.name}" if begun else recipe.name
    return (
        f"{what} takes about {duration(seconds)}, {basis}, and {limit.words} allows {duration(limit.seconds)}: "
        + (f"{fits} of its {recipe.epochs} epochs fit, {how}" if fits else none)
    )


def is_trained(plan: Plan, options: StartOptions, history: RunHistory) -> bool:
    """Whether only the end of the run is left, which no budget keeps from it: its model is measured and registered."""
    last = _last_step(history)
    if last >= plan.recipe.epochs * plan.recipe.steps_per_epoch(len(plan.dataset.train)):
        return True
    evaluated = [point for point in history.points if point.key == metrics.VAL_TOP1]
    at_target = bool(options.until_top1 and evaluated and evaluated[-1].value >= options.until_top1)
    return at_target and evaluated[-1].step == last


def _last_step(history: RunHistory) -> int:
    return max((point.step for point in history.points), default=0)


class Forecast:
    """How long a run takes, by its own journal, else by what is known of its --instance."""

    def __init__(self, plan: Plan, options: StartOptions) -> None:
        self._plan, recipe = plan, plan.recipe
        self._steps = recipe.steps_per_epoch(len(plan.dataset.train))
        history = read_journal(plan.folder, empty=True)
        self.elapsed = history.seconds
        self.begun = epochs_before(plan)
        self._first = round(self.begun * self._steps)
        self._step = max(_last_step(history), self._first)
        self.trained = is_trained(plan, options, history)
        self._pace = Pace.of(history, recipe, self._steps)
        # What is published is of ResNet-50 on GPUs.
        machine = options.instance and options.device != "cpu" and recipe.model.startswith("resnet50")
        self._machine = find_instance(options.instance) if options.instance and machine else None
        if self._machine and options.nproc_per_node:
            self._machine = dataclasses.replace(self._machine, gpus=options.nproc_per_node)
        several = f"{ranks.machines()} x " if ranks.machines() > 1 else ""
        predicted = f"as predicted for {several}{options.instance}"
        self.basis = "as measured so far" if self._pace.known else predicted

    def seconds(self) -> float | None:
        """Of the whole run, all starts together; None: nothing is known of this machine."""
        if self._pace.known:
            return self.elapsed + self._pace.seconds(self._plan.recipe, first_step=self._step)
        return self.whole(self._plan.recipe) if self._machine else None

    def whole(self, recipe: Recipe) -> float:
        """Seconds of a whole run of another recipe, on machines of which something is known."""
        if self._pace.known:
            return self._pace.seconds(recipe, first_step=self._first)
        assert self._machine is not None
        share = 1 - self.begun / recipe.epochs
        # Each machine has disk, CPUs and GPUs of its own for its share; what the network costs is not predicted.
        return 3600 * share * estimate(recipe, self._machine, **_data(self._plan)).hours / ranks.machines()


def _fit(plan: Plan, asked: TrainOptions, limit: Limit) -> tuple[Plan, TrainOptions]:
    """The run that a command with --fit means: the one it has made before, else one as short as the budget asks."""
    forecast = Forecast(plan, asked)
    if forecast.trained:
        return plan, asked
    if found := _fitted(plan, asked):
        options = dataclasses.replace(asked, set=(*asked.set, *found))
        before = make_plan(options)
        forecast = Forecast(before, options)
        seconds = forecast.seconds()
        done = forecast.trained or read_result(before.folder)
        if done or seconds is None or seconds <= SLACK * limit.seconds:
            return before, options
        seconds = forecast.whole(plan.recipe)  # slower than was predicted: a shorter run is fitted to that
    else:
        seconds = forecast.seconds()
    if seconds is None:
        raise ConfigError(
            "--fit has to know what this machine makes: give --instance NAME, or start without it, and again with it "
            "when the first steps are measured"
        )
    if seconds <= limit.seconds:
        return plan, asked
    epochs = most_epochs(plan.recipe, limit.seconds, forecast.whole)
    if not epochs:
        raise _refused(plan, asked, limit, seconds, forecast)
    settings = settings_of(shortened(plan.recipe, epochs))
    logger.info(
        "%s takes about %s, %s, and %s allows %s: a run of %d epochs instead of %d, as with --set %s",
        plan.recipe.name,
        duration(seconds),
        forecast.basis,
        limit.words,
        duration(limit.seconds),
        epochs,
        plan.recipe.epochs,
        " --set ".join(settings),
    )
    options = dataclasses.replace(asked, set=(*asked.set, *settings))
    return make_plan(options), options


def _fitted(plan: Plan, asked: TrainOptions) -> list[str]:
    """The settings that the same command was fitted to before, of the shortest run; empty if it was not."""
    of_command, found = _of_command(asked, plan.recipe, plan), []
    name = asked.name if asked.name is not None else plan.recipe.name
    for path in asked.runs.glob(f"{glob.escape(name)}-*/{FITTED}"):
        with suppress(OSError, ValueError):
            stored = read_json(path)
            if isinstance(stored, dict) and {key: stored.get(key) for key in of_command} == of_command:
                found.append((int(stored["epochs"]), list(stored["set"])))
    return min(found, default=(0, []))[1]


def _of_command(asked: TrainOptions, recipe: Recipe, plan: Plan) -> dict[str, Any]:
    """What makes it this command: the recipe as it was asked for, what else the plan has, and the budget."""
    return {
        "recipe": recipe.digest(),
        "dataset": plan.dataset.digest,
        "parent": plan.parent.as_dict() if plan.parent else None,
        "max_hours": asked.max_hours,
        "max_dollars": asked.max_dollars,
    }


def _data(plan: Plan) -> dict[str, Any]:
    dataset = plan.dataset
    return {
        "images": (len(dataset.train), len(dataset.val)),
        "kilobytes": float(dataset.train.rows["bytes"].mean()) / 1000,
    }


def _price(seconds: float, options: StartOptions) -> str:
    return f" and {dollars(seconds, options.price * ranks.machines())}" if options.price else ""


def _refused(
    plan: Plan, options: StartOptions, limit: Limit, seconds: float, forecast: Forecast
) -> ConfigError:
    begun = forecast.begun
    too_much = too_small(plan.recipe, limit, seconds, forecast.basis, forecast.whole, begun=begun)
    return ConfigError(f"{too_much}{'' if begun else _alternatives(plan, options, limit)}")


def _alternatives(plan: Plan, options: StartOptions, limit: Limit) -> str:
    """Recipes for ImageNet and machines that the budget allows, as the end of a sentence; empty if none is known."""
    recipe, found = plan.recipe, []
    if recipe.bar is None:
        return ""
    facts = _data(plan)
    if options.instance:
        machine = {options.instance: find_instance(options.instance)}
        others = [load_recipe(name) for name in shipped_recipes()]
        smaller = sorted(
            (one for one in others if one.bar and one.bar < recipe.bar), key=lambda one: -(one.bar or 0)
        )
        for one in smaller:
            (offer,) = offers(one, machine, usd_per_hour=options.price, **facts)
            hours = offer.hours / ranks.machines()  # the dollars are the same
            if 3600 * hours <= limit.seconds:
                found.append(f"{one.name} fits, for {one.bar:.0%} ({hours:.1f} h, ${offer.usd:.2f})")
                break
    quota = (
        INSTANCES[options.instance].quota if options.instance else "G and VT"
    )  # what new accounts get first
    allowed = [one for one in offers(recipe, **facts) if _allowed(one.hours, one.usd, options)]
    if allowed:
        offer = min(allowed, key=lambda one: (one.quota != quota, one.usd))
        found.append(
            f"on {offer.instance} {recipe.name} takes {offer.hours:.1f} h, ${offer.usd:.2f} on demand"
        )
    return "; ".join(["", *found])


def _allowed(hours: float, usd: float, options: StartOptions) -> bool:
    return (options.max_hours is None or hours <= options.max_hours) and (
        options.max_dollars is None or usd <= options.max_dollars
    )
