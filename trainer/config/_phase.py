"""Phases of a run: other values for some settings, from a share of the run on."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass

from trainer.config._settings import (
    CHECKED,
    Augment,
    ColorJitter,
    Fraction,
    Magnitude,
    NotNegative,
    Pixels,
    RandomOps,
    Range,
    Share,
)

if TYPE_CHECKING:
    from trainer.config._recipe import Recipe


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class PhasePreprocess:
    """What a phase may change of `Preprocess`; None: it stays as it is."""

    train_size: Pixels | None = None  # of all crops of the phase, also where they grew before it
    crop_area: Range | None = None
    crop_ratio: Range | None = None
    flip: bool | None = None
    augment: Augment | None = None
    randaugment_ops: RandomOps | None = None
    randaugment_magnitude: Magnitude | None = None
    color_jitter: ColorJitter | None = None
    erasing: Share | None = None


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Phase:
    """Settings of a recipe from a share of the run on; None: a setting stays as it is."""

    at: Annotated[float, Field(gt=0, lt=1)]  # share of the run; the phase begins with the next epoch
    label_smoothing: Fraction | None = None
    mixup: NotNegative | None = None
    cutmix: NotNegative | None = None
    ema_decay: Fraction | None = None
    preprocess: PhasePreprocess = PhasePreprocess()

    def first_epoch(self, epochs: int) -> int:
        """The epoch (0-based) with which the phase begins in a run of `epochs` epochs."""
        return max(1, math.ceil(round(self.at * epochs, 6)))  # 0.55 x 100 is a little more than 55

    def as_dict(self) -> dict[str, Any]:
        """What the phase sets, as plain nested data, as in the recipe file."""
        settings, below = _given(self), _given(self.preprocess)
        return {**settings, "preprocess": below} if below else settings

    def describe(self) -> str:
        """What the phase sets, in words."""
        settings = {key: value for key, value in _given(self).items() if key != "at"}
        settings |= {f"preprocess.{key}": value for key, value in _given(self.preprocess).items()}
        return ", ".join(
            f"{key} {value if isinstance(value, str) else json.dumps(value)}"
            for key, value in settings.items()
        )

    def applied_to(self, recipe: Recipe) -> Recipe:
        """A recipe without phases, with the settings of this one. Raises: ValueError if they do not fit."""
        settings, below = _given(self), _given(self.preprocess)
        del settings["at"]
        if "train_size" in below:
            below["min_res"] = None
        try:
            preprocess = dataclasses.replace(recipe.preprocess, **below)
            return dataclasses.replace(recipe, **settings, preprocess=preprocess)
        except ValidationError as error:
            raise ValueError(f"the phase at={self.at}: {error.errors()[0]['ctx']['error']}") from None


def in_force(recipe: Recipe) -> dict[int, Recipe]:
    """The recipes without phases that are in force one after the other, by the epoch (0-based) that each begins with.

    Raises: ValueError if a phase begins before another one that stands first, or in the same epoch; if it begins when
        the run is over; or if it changes nothing.
    """
    now, begun, last = dataclasses.replace(recipe, phases=()), 0, 0.0
    made = {0: now}
    for phase in recipe.phases:
        at, epoch, before = phase.at, phase.first_epoch(recipe.epochs), now
        if at <= last:
            raise ValueError(f"phases must begin at growing shares of the run, not at={at} after at={last}")
        if epoch >= recipe.epochs:
            raise ValueError(
                f"the phase at={at} would begin after the last of {recipe.epochs} epochs, for a phase begins with an "
                f"epoch; use epochs={_fewest(phase)} or more, an earlier at, or phases=[]"
            )
        if epoch == begun:
            raise ValueError(
                f"the phases at={last} and at={at} would both begin with epoch {epoch + 1} of {recipe.epochs}; "
                "leave one of them out, or use more epochs"
            )
        now = phase.applied_to(before)
        if now == before:
            raise ValueError(
                f"the phase at={at} changes nothing: all that it sets is so before; leave it out"
            )
        made[epoch], begun, last = now, epoch, at
    return made


def phase_settings() -> list[str]:
    """The settings that a phase may change, by dotted key."""
    own = [field.name for field in dataclasses.fields(Phase) if field.name not in ("at", "preprocess")]
    return own + [f"preprocess.{field.name}" for field in dataclasses.fields(PhasePreprocess)]


def _given(section: Phase | PhasePreprocess) -> dict[str, Any]:
    """The settings of a section that are given, without those of a section below it."""
    fields = ((field.name, getattr(section, field.name)) for field in dataclasses.fields(section))
    return {name: value for name, value in fields if not (value is None or dataclasses.is_dataclass(value))}


def _fewest(phase: Phase) -> int:
    """Epochs of the shortest run in which the phase begins: one of them is left to it."""
    return math.ceil(round(1 / (1 - phase.at), 6))
