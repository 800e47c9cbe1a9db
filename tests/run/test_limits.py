"""Budgets before a run starts: what is refused, what fits, and what --fit makes of it."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trainer import metrics
from trainer.cli import main
from trainer.config import Recipe, load_recipe
from trainer.errors import ConfigError
from trainer.run import ExtendOptions, Plan, TrainOptions, check_budget, make_extension, priced, within_budget
from trainer.run._budget import FirstForecast, budget_of, budget_words
from trainer.run._limits import Forecast, Limit, limit_of
from trainer.run._pace import Pace, most_epochs, settings_of, shortened
from trainer.tracking import DatasetInfo, Journal, RunInfo

NOTHING = TrainOptions(recipe="digits", data=Path("nowhere"))
IMAGES = 1437  # of the digits


@pytest.fixture
def options(digits: Path, tmp_path: Path) -> TrainOptions:
    """ResNet-50 on the digits, on a g5.xlarge: 32 epochs in about 40 seconds, as predicted."""
    settings = ("classes=null", "global_batch=64")
    return TrainOptions(
        recipe="rn50-75", data=digits, set=settings, runs=tmp_path / "runs", instance="g5.xlarge"
    )


def journal(folder: Path, *points: tuple[int, Mapping[str, float]]) -> None:
    """A run that has begun, with what it has measured after so many steps."""
    book = Journal(folder)
    book.start(RunInfo(name="r", experiment="e", params={}, tags={}, dataset=DatasetInfo("d", "", "")))
    for step, values in points:
        book.log(step, values)
    book.finish("interrupted")


def throughputs(images_per_second: float, *steps: int) -> list[tuple[int, dict[str, float]]]:
    return [(step, {metrics.THROUGHPUT: images_per_second}) for step in steps]


def begun(
    options: TrainOptions,
    images_per_second: float,
    *more: tuple[int, Mapping[str, float]],
    seconds: float = 0.0,
) -> TrainOptions:
    """The same options, of a run that has measured its first 40 steps, and what came later, and has taken so long."""
    folder = within_budget(replace(options, max_hours=None, max_dollars=None)).plan.folder
    journal(folder, *throughputs(images_per_second, 10, 20, 30, 40), *more)
    path = folder / "journal.jsonl"
    *lines, end = path.read_text().splitlines()
    record = json.loads(end)
    later = json.dumps({**record, "time": record["time"] + int(1000 * seconds)})
    path.write_text("\n".join([*lines, later, ""]))
    return options


def on_two_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun has it in the first process of two machines."""
    place = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 16, "LOCAL_WORLD_SIZE": 8, "MASTER_PORT": 1}
    for name, value in {**place, "MASTER_ADDR": "first"}.items():
        monkeypatch.setenv(name, str(value))


# What a budget is.


@pytest.mark.parametrize(
    ("given", "seconds", "words"),
    [
        ({"max_hours": 2.0}, 7200, "--max-hours 2"),
        ({"max_dollars": 5.0, "price": 0.5}, 36_000, "--max-dollars 5"),
        ({"max_hours": 2.0, "max_dollars": 5.0, "price": 0.5}, 7200, "--max-hours 2"),
        ({"max_hours": 20.0, "max_dollars": 5.0, "price": 0.5}, 36_000, "--max-dollars 5"),
    ],
)
def test_the_tighter_of_hours_and_dollars_is_the_limit(
    given: dict[str, Any], seconds: float, words: str
) -> None:
    assert limit_of(replace(NOTHING, **given)) == Limit(seconds, words)


def test_without_hours_and_dollars_there_is_no_limit() -> None:
    assert limit_of(replace(NOTHING, price=1.0, until_top1=0.5)) is None


def test_dollars_are_for_all_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    on_two_machines(monkeypatch)
    limit = limit_of(replace(NOTHING, max_dollars=40.0, price=10.0))

    assert limit is not None
    assert limit.seconds == 2 * 3600


def test_dollars_need_a_price() -> None:
    with pytest.raises(ConfigError, match="--max-dollars needs the price of the machine: give --price USD"):
        limit_of(replace(NOTHING, max_dollars=5.0))


def test_a_known_machine_has_its_price_on_demand_unless_another_is_given(options: TrainOptions) -> None:
    assert within_budget(options).options.price == 1.006
    assert within_budget(replace(options, price=0.4)).options.price == 0.4


def test_a_tag_says_the_budget_as_it_was_given() -> None:
    assert budget_words(replace(NOTHING, max_hours=2.0, until_top1=0.75)) == "--max-hours 2 --until-top1 0.75"
    assert budget_words(NOTHING) == ""


# The pace of a run.


def test_a_run_takes_its_steps_and_its_evaluations() -> None:
    recipe = load_recipe("digits", ["epochs=10", "global_batch=64"])
    pace = Pace(recipe, 22)
    for step, values in throughputs(1.0, 5) + throughputs(64.0, 10, 15, 20):  # the first holds the start-up
        assert not pace.known
        pace.update(step, values)
    assert pace.known
    assert pace.seconds(recipe) == pytest.approx(220)

    pace.update(22, {metrics.EVALUATION_SECONDS: 3.0})
    assert pace.seconds(recipe) == pytest.approx(220 + 12 * 3)
    assert pace.seconds(recipe, first_step=33) == pytest.approx(220 - 33 + 11 * 3)
    assert pace.seconds(recipe, first_step=220) == pytest.approx(2 * 3)


def test_small_crops_of_the_first_epochs_do_not_make_the_whole_look_short() -> None:
    recipe = load_recipe("rn50-65")
    sizes = [recipe.train_size(epoch) for epoch in range(16)]
    pace = Pace(recipe, 100)
    for step, values in throughputs(2048.0, 10, 20, 30, 40):
        pace.update(step, values)

    assert sizes[0] < sizes[-1]
    seconds = sum(100 * recipe.global_batch / 2048 * (size / sizes[0]) ** 2 for size in sizes)
    assert pace.seconds(recipe) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("rn50-75", ("epochs=8", "schedule.warmup_epochs=0.5")),
        ("rn50-onecycle", ("epochs=8",)),
        ("rn50-step", ("epochs=8", None)),
    ],
)
def test_fewer_epochs_have_a_schedule_of_the_same_shape(
    recipe: str, settings: tuple[str | None, ...]
) -> None:
    whole = load_recipe(recipe)
    short = shortened(whole, 8)

    assert load_recipe(recipe, list(settings_of(short))) == short
    assert short.schedule.milestones == whole.schedule.milestones  # shares of the run
    if whole.schedule.name != "onecycle":
        assert short.schedule.warmup_epochs / 8 == pytest.approx(
            whole.schedule.warmup_epochs / whole.epochs, rel=1e-3
        )
    for given, said in zip(settings, settings_of(short), strict=False):
        assert given in (None, said)


@pytest.mark.parametrize(("seconds", "epochs"), [(9.9, 0), (10, 1), (25, 2), (1e9, 31)])
def test_as_many_epochs_fit_as_do_not_take_longer(seconds: float, epochs: int) -> None:
    def whole(recipe: Recipe) -> float:
        return 10.0 * recipe.epochs

    assert most_epochs(load_recipe("rn50-75"), seconds, whole) == epochs


@pytest.mark.parametrize(
    ("recipe", "settings", "seconds", "epochs"),
    [
        ("rn50d", (), 39, 0),
        ("rn50d", (), 40, 4),
        ("rn50d", (), 1e9, 114),
        # In 5 epochs both phases would begin with the fourth.
        ("rn50-75", ("phases=[{at: 0.5, mixup: 0.2}, {at: 0.6, mixup: 0.1}]",), 59, 4),
    ],
)
def test_no_fewer_epochs_fit_than_the_phases_allow(
    recipe: str, settings: tuple[str, ...], seconds: float, epochs: int
) -> None:
    assert (
        most_epochs(load_recipe(recipe, list(settings)), seconds, lambda short: 10.0 * short.epochs) == epochs
    )


# Before the start.


def test_a_budget_that_is_enough_says_what_is_expected(options: TrainOptions) -> None:
    told = within_budget(replace(options, max_dollars=5.0)).told

    assert told == "about 0:39 and $0.01 of --max-dollars 5, as predicted for g5.xlarge"


def test_two_machines_are_expected_to_take_half_the_time_for_the_same_money(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    dear = replace(options, max_dollars=5.0, price=360.0)  # ten cents a second
    alone = within_budget(dear).told
    on_two_machines(monkeypatch)

    assert alone == "about 0:39 and $3.91 of --max-dollars 5, as predicted for g5.xlarge"
    assert within_budget(dear).told == (
        "about 0:19 and $3.91 of --max-dollars 5, as predicted for 2 x g5.xlarge"
    )
    with pytest.raises(ConfigError, match=r"rn50-65 fits, for 65% \(0\.0 h, \$1\."):
        within_budget(replace(dear, max_dollars=2.0))


def test_one_that_is_too_small_is_refused_with_what_fits(options: TrainOptions) -> None:
    with pytest.raises(ConfigError) as refused:
        within_budget(replace(options, max_hours=25 / 3600))
    said = str(refused.value)

    assert said.startswith("rn50-75 takes about 0:39, as predicted for g5.xlarge, and --max-hours")
    assert "20 of its 32 epochs fit, as a run of its own" in said
    assert "(--set epochs=20 --set schedule.warmup_epochs=1.25, or --fit)" in said
    assert "rn50-65 fits, for 65% (0.0 h, $0.01)" in said
    assert "on g6e.2xlarge rn50-75 takes" in said


def test_where_not_one_epoch_fits_that_is_said(options: TrainOptions) -> None:
    for fit in (False, True):
        with pytest.raises(ConfigError, match="allows 0:00: not one epoch fits"):
            within_budget(replace(options, max_dollars=1e-4, fit=fit))


def test_a_recipe_with_phases_is_refused_and_fitted_like_any_other(options: TrainOptions) -> None:
    phased = replace(options, recipe="rn50d", instance="g4dn.xlarge")
    with pytest.raises(
        ConfigError, match=r"\d+ of its 115 epochs fit, as a run of its own \(--set epochs=\d+"
    ):
        within_budget(replace(phased, max_hours=0.1))
    assert 4 < within_budget(replace(phased, max_hours=0.1, fit=True)).plan.recipe.epochs < 115
    for fit in (False, True):
        with pytest.raises(ConfigError, match="not even 4 epochs fit, the fewest that its phases allow"):
            within_budget(replace(phased, max_hours=1 / 3600, fit=fit))


@pytest.mark.parametrize(
    "changes",
    [
        {"instance": None},
        {"device": "cpu"},
        {"set": ("classes=null", "global_batch=64", "model=tests.nets:Small")},
    ],
)
def test_where_nothing_is_known_the_first_steps_will_tell_and_fit_asks_for_them(
    options: TrainOptions, changes: dict[str, Any]
) -> None:
    unknown = replace(options, max_hours=1e-6, **changes)

    assert within_budget(unknown).told == "its first steps will tell whether --max-hours 1e-06 is enough"
    with pytest.raises(ConfigError, match="--fit has to know what this machine makes: give --instance NAME"):
        within_budget(replace(unknown, fit=True))


def test_a_fit_without_a_budget_and_volta_are_refused(options: TrainOptions) -> None:
    with pytest.raises(ConfigError, match="--fit needs a budget"):
        within_budget(replace(options, fit=True))
    with pytest.raises(ConfigError, match="for which CUDA 13 has no code"):
        within_budget(replace(options, instance="p3.2xlarge"))


def test_a_target_above_the_recipes_bar_is_a_warning(
    options: TrainOptions, caplog: pytest.LogCaptureFixture
) -> None:
    within_budget(replace(options, until_top1=0.74))
    assert caplog.text == ""

    within_budget(replace(options, until_top1=0.78))
    assert "--until-top1 0.78 is more than rn50-75 is for, 0.75" in caplog.text


# A run that has begun.


def test_what_a_run_has_measured_counts_more_than_what_was_predicted(options: TrainOptions) -> None:
    begun(options, 100.0)
    whole = 32 * (IMAGES // 64) * 64 / 100  # at 160 px; later epochs have more pixels

    with pytest.raises(ConfigError, match=r"takes about \d+:\d\d, as measured so far") as refused:
        within_budget(replace(options, max_hours=0.5 * whole / 3600))
    assert "of its 32 epochs fit" in str(refused.value)
    assert "as measured so far" in within_budget(replace(options, max_hours=2 * whole / 3600)).told


def test_a_run_that_is_a_little_too_slow_goes_on_and_is_told_so(
    options: TrainOptions, caplog: pytest.LogCaptureFixture
) -> None:
    begun(options, 100.0, seconds=1.0)
    told = within_budget(replace(options, max_hours=1.0)).told
    minutes, seconds = map(int, told.split()[1].split(":"))
    within_budget(replace(options, max_hours=(60 * minutes + seconds) * 0.95 / 3600))

    assert "it is stopped when that is spent" in caplog.text


def test_a_run_that_has_spent_its_budget_is_refused_until_it_gets_more(options: TrainOptions) -> None:
    begun(options, 1e6, seconds=7200)

    with pytest.raises(
        ConfigError, match=r"has taken 2:00 h already, which is all that --max-hours 2 allows"
    ):
        within_budget(replace(options, max_hours=2.0))
    assert "of --max-hours 2.1" in within_budget(replace(options, max_hours=2.1)).told


LAST = 32 * (IMAGES // 64)
REACHED = (44, {metrics.VAL_TOP1: 0.5})  # the target, after two epochs


@pytest.mark.parametrize(
    ("last", "trained"),
    [
        (throughputs(1.0, LAST), True),
        (throughputs(1.0, LAST - 1), False),
        ([REACHED], True),
        ([REACHED, *throughputs(1.0, 45)], False),  # it has gone on since, to a higher target
        ([(44, {metrics.VAL_TOP1: 0.49})], False),
    ],
)
def test_a_run_that_is_trained_is_registered_whatever_it_took(
    options: TrainOptions, last: list[tuple[int, dict[str, float]]], trained: bool
) -> None:
    begun(options, 100.0, *last, seconds=7200)
    spent = replace(options, max_hours=1.0, until_top1=0.5)

    assert asked_to_stop(spent, 0.2 if trained else 60) == (not trained)
    for fit in (False, True):
        asked = replace(spent, fit=fit)
        if trained:
            assert within_budget(asked).told == "trained already"
        elif not fit:
            with pytest.raises(ConfigError, match="has taken 2:00 h already"):
                within_budget(asked)


def asked_to_stop(options: TrainOptions, seconds: float) -> bool:
    """Whether a start of the run is stopped at once, for want of time; a busy machine may take so many seconds."""
    plan = within_budget(replace(options, max_hours=None)).plan
    asked = threading.Event()
    with budget_of(plan, options).watch(lambda _: asked.set()):
        return asked.wait(seconds)


# --fit.


def test_fit_makes_a_shorter_run_and_the_same_command_finds_it_again_on_any_machine(
    options: TrainOptions, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked = replace(options, max_hours=25 / 3600, fit=True)
    made = within_budget(asked)

    assert made.plan.recipe.epochs == 20
    assert made.plan.recipe.schedule.warmup_epochs == 1.25
    assert made.options.set == (*asked.set, "epochs=20", "schedule.warmup_epochs=1.25")
    assert not made.options.fit, "the processes that are started do not fit it once more"
    assert "a run of 20 epochs instead of 32, as with --set epochs=20 --set schedule.warm" in caplog.text
    assert not options.runs.exists(), "planning writes nothing"

    made.begin(asked)
    journal(made.plan.folder, *throughputs(2000.0, 10, 20, 30, 40))
    assert within_budget(replace(asked, instance="g5.12xlarge")).plan.folder == made.plan.folder
    assert within_budget(replace(asked, instance="g4dn.xlarge")).plan.folder == made.plan.folder
    assert within_budget(replace(asked, max_hours=20 / 3600)).plan.folder != made.plan.folder

    restored: list[Path] = []

    def restore(plan: Plan) -> Plan:
        restored.append(plan.folder)
        return plan

    within_budget(asked, restore=restore)
    assert restored == [made.plan.folder], "the run that is too long has no mirror"


def test_what_was_fitted_to_one_data_set_and_parent_is_not_taken_for_another(
    options: TrainOptions, photos: Path
) -> None:
    settings = ("classes=null", "global_batch=8")
    asked = replace(options, set=settings, max_hours=25 / 3600, fit=True, from_="r", weights="ema")
    made = within_budget(asked)
    assert made.plan.recipe.epochs == 20
    made.begin(asked)
    fast = replace(asked, instance="g5.12xlarge")  # on which all 32 would fit

    assert within_budget(fast).plan.recipe.epochs == 20
    for other in ({"weights": "raw"}, {"from_": "s"}, {"data": photos}):
        assert within_budget(replace(fast, **other)).plan.recipe.epochs == 32, other


def test_a_fitted_run_that_is_far_slower_than_predicted_is_fitted_once_more(options: TrainOptions) -> None:
    asked = replace(options, max_hours=25 / 3600, fit=True)
    made = within_budget(asked)
    made.begin(asked)
    journal(made.plan.folder, *throughputs(600.0, 10, 20, 30, 40))
    again = within_budget(asked)

    assert again.plan.recipe.epochs < 20
    again.begin(asked)
    assert within_budget(asked).plan.folder == again.plan.folder


def test_fit_leaves_a_run_alone_that_is_short_enough(options: TrainOptions) -> None:
    asked = replace(options, max_hours=1.0, fit=True)
    made = within_budget(asked)
    made.begin(asked)

    assert made.plan.folder == within_budget(options).plan.folder
    assert not options.runs.exists()


# Of an extension, whose epochs before belong to another run.


def extension(options: TrainOptions, **limits: float) -> ExtendOptions:
    """Of the same run, which has been stopped after half of its 32 epochs, to its end."""
    plan = within_budget(options).plan
    (plan.folder / "checkpoints").mkdir(parents=True)
    plan.write()
    (plan.folder / "checkpoints" / f"step-{16 * 22:08d}-0123456789abcdef.pt").touch()
    return priced(
        ExtendOptions(
            folder=plan.folder, epochs=32, runs=options.runs, name="on", instance="g5.xlarge", **limits
        )
    )


def test_an_extension_is_expected_to_take_what_is_left(options: TrainOptions) -> None:
    whole = Forecast(within_budget(options).plan, options).seconds()
    more = extension(options, max_hours=1.0)
    plan = make_extension(more).plan

    assert whole is not None
    assert Forecast(plan, more).seconds() == pytest.approx(whole / 2)
    assert re.fullmatch(
        r"about 0:19 and \$0\.01 of --max-hours 1, as predicted for g5\.xlarge", check_budget(plan, more)
    )


def test_an_extension_that_is_too_long_is_refused_with_the_epochs_that_fit(
    options: TrainOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = extension(options).folder
    arguments = ["extend", str(folder), "--epochs", "32", "--runs", str(options.runs), "--name", "on"]
    before = sorted(options.runs.rglob("*"))

    assert main([*arguments, "--instance", "g5.xlarge", "--max-hours", str(10 / 3600)]) == 2
    said = capsys.readouterr().err
    assert "what is left of rn50-75 takes about 0:19, as predicted for g5.xlarge, and --max-hours" in said
    assert said.endswith("24 of its 32 epochs fit, with --epochs 24\n"), (
        "no other recipe would go on from there"
    )
    assert sorted(options.runs.rglob("*")) == before


def test_the_first_steps_of_an_extension_tell_that_it_is_too_long(options: TrainOptions) -> None:
    plan = make_extension(extension(options)).plan
    forecast = FirstForecast(plan, Limit(100, "--max-hours 1"), 0.0, clock=lambda: 0.0)
    said = [forecast(16 * 22 + step, {metrics.THROUGHPUT: 64.0}) for step in (5, 10, 15, 20)][3]

    assert said is not None
    assert "what is left of rn50-75 takes about " in said
    assert re.search(r"allows 1:40: (17|18|19|20|21) of its 32 epochs fit, with --epochs \1$", said), said


# While it is trained.


def first_forecast(options: TrainOptions, seconds: float) -> FirstForecast:
    """Of a run of 32 epochs of 22 steps of 64 images, by a clock that stands still."""
    return FirstForecast(within_budget(options).plan, Limit(seconds, "--max-hours 1"), 0.0, clock=lambda: 0.0)


def test_the_first_steps_tell_that_a_budget_is_far_too_small(options: TrainOptions) -> None:
    forecast = first_forecast(options, 100)
    said = [forecast(step, {metrics.THROUGHPUT: 64.0}) for step in (5, 10, 15, 20, 21)]

    assert said[:3] == [None, None, None], "the first holds the start-up, and two are too few"
    assert said[3] is not None
    assert said[3].startswith("because rn50-75 takes about ")
    assert "as measured so far, and --max-hours 1 allows 1:40: " in said[3]
    assert said[4] is None, "it is said once"


def test_the_first_steps_of_a_recipe_with_phases_tell_it_as_well(options: TrainOptions) -> None:
    forecast = first_forecast(replace(options, recipe="rn50d"), 80)
    said = [forecast(step, {metrics.THROUGHPUT: 64.0}) for step in (5, 10, 15, 20)]

    assert said[3] is not None
    assert said[3].endswith("allows 1:20: not even 4 epochs fit, the fewest that its phases allow")


def test_the_first_steps_of_a_run_that_fits_are_silent_and_later_ones_do_not_count(
    options: TrainOptions, caplog: pytest.LogCaptureFixture
) -> None:
    forecast = first_forecast(options, 2000)
    said = [forecast(step, {metrics.THROUGHPUT: 64.0}) for step in (5, 10, 15, 20)]
    said += [forecast(22, {metrics.EVALUATION_SECONDS: 1.0})]
    said += [forecast(step, {metrics.THROUGHPUT: 0.1}) for step in range(23, 60)]

    assert set(said) == {None}
    assert caplog.text == ""


def test_a_run_that_is_just_too_slow_is_warned_and_goes_on(
    options: TrainOptions, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Pace(load_recipe("rn50-75", list(options.set)), 22)
    for step in (5, 10, 15, 20):
        whole.update(step, {metrics.THROUGHPUT: 64.0})
    left = whole.seconds(load_recipe("rn50-75", list(options.set)), first_step=20)
    forecast = first_forecast(options, 0.95 * left)

    assert {forecast(step, {metrics.THROUGHPUT: 64.0}) for step in (5, 10, 15, 20)} == {None}
    assert "the run goes on and is stopped when that is spent" in caplog.text


def test_only_the_first_process_keeps_the_time(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgeted = within_budget(replace(options, max_hours=1.0, until_top1=0.5))
    asked: list[str] = []
    monkeypatch.setattr("trainer.ranks.rank", lambda: 1)
    with budget_of(budgeted.plan, replace(budgeted.options, max_hours=1e-9)).watch(asked.append) as budget:
        budget.check(5, {metrics.THROUGHPUT: 1e-9})
        threading.Event().wait(0.1)

    assert asked == []
    assert budget.reached(0.5)
    assert not budget.reached(0.4999)
