"""What the run was: recipe, data, hardware, code, starts, hours, dollars, and the command that makes it again."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainer.config import Recipe, load_recipe, shipped_recipes
from trainer.dataset import Dataset, shown
from trainer.errors import ConfigError
from trainer.tracking import BEGUN, FIND_LR_NAME, PRICE, RunHistory, devices_of

MOST_NAMED = 20  # skipped images


@dataclass(frozen=True)
class Run:
    """A run as a report needs it."""

    folder: Path
    history: RunHistory
    recipe: Recipe
    classes: tuple[str, ...]  # their names, in label order
    dataset: Dataset | None  # None: it is not here, or not the one that was trained on …
    missing: str = ""  # … and why
    parent: Mapping[str, Any] | None = (
        None  # what it began with, as the run folder has it; None: with nothing
    )

    @property
    def finished(self) -> bool:
        """Whether training has come to its end."""
        return self.history.status == "finished"


def facts(run: Run) -> list[tuple[str, str]]:
    """Name and text of each fact that is known."""
    history, recipe, tags = run.history, run.recipe, run.history.tags
    bar = f"; the bar is {recipe.bar:.1%} top-1" if recipe.bar else ""
    rows = [
        ("Recipe", f"{recipe.name}: {recipe.epochs} epochs, {recipe.global_batch:,} images per step{bar}"),
        ("Description", recipe.description),
        ("Began with", _began_with(run)),
        ("Phases", "; ".join(recipe.describe_phases().values())),
        (
            "Network",
            recipe.model
            + (f", {int(tags['parameters']):,} parameters" if _number(tags, "parameters") else ""),
        ),
        ("Seed", str(recipe.seed)),
        ("Learning rate", f"found by {shown(tags[FIND_LR_NAME])}" if FIND_LR_NAME in tags else ""),
        ("Data set", _dataset(run)),
        ("Completeness", tags.get("dataset_completeness", "")),
        ("Images left out", _skipped(run.dataset)),
        ("Hardware", _hardware(tags)),
        (
            "Execution",
            ", ".join(f"{key} {tags[key]}" for key in ("batch_per_gpu", "compile", "decoder") if key in tags),
        ),
        ("Code", _code(tags)),
        ("State", history.status + (f": {history.reason}" if history.reason else "")),
        ("Starts", _starts(history)),
        ("Time", _time(history)),
        ("Warnings", "; ".join(" ".join(note.split())[:200] for note in history.notes)),
        ("Run folder", str(run.folder)),
    ]
    return [(name, text) for name, text in rows if text]


def command(run: Run) -> str:
    """The command that makes the run again, from the same recipe, data and parent."""
    words, usual_name = _extend(run) if _takes_all(run) else (_train(run), run.recipe.name)
    if run.history.dataset:
        words += ["--data", run.history.dataset.source]
    if run.history.tags.get("dataset_completeness", "").startswith("not "):
        words.append("--partial")  # without which such a data set is refused
    name = _name(run.folder.resolve())
    if name and name != usual_name:
        words += ["--name", name]
    return shlex.join(shown(word) for word in ["trainer", *words])


def _extend(run: Run) -> tuple[list[str], str]:
    """The command's words for an extension, and the name that it gives to the run."""
    extended = _parent(run)
    words = ["extend", extended, "--epochs", str(run.recipe.epochs)]
    if run.parent and run.parent.get("takes") != "all":
        words.append("--cooldown")
    return words, _name(Path(extended))


def _train(run: Run) -> list[str]:
    recipe = run.recipe
    words = ["train", recipe.name]
    if recipe.name in shipped_recipes():
        try:
            base = load_recipe(recipe.name)
        except ConfigError:
            base = recipe
        for key, (value, _) in base.differences(recipe.as_dict()).items():
            plain = isinstance(value, str) and value.replace(".", "").replace(":", "").isidentifier()
            words += ["--set", f"{key}={value if plain else json.dumps(value)}"]
    else:
        words[-1] = f"{recipe.name}.yaml"
    if run.parent:
        weights = run.parent.get("weights")
        words += ["--from", _parent(run), *(["--weights", str(weights)] if weights else [])]
    return words


def _began_with(run: Run) -> str:
    if not run.parent:
        return ""
    tags, weights = run.history.tags, run.parent.get("weights")
    which = f" ({weights})" if weights else ""
    what = "weights, optimizer and EMA" if _takes_all(run) else "the weights"
    epochs = f" after {tags[BEGUN]} epochs" if BEGUN in tags else ""
    digest = f"; SHA-256 {tags['parent_digest'][:16]}…" if "parent_digest" in tags else ""
    made_by = f", of run {tags['parent_run_id']} in MLflow" if "parent_run_id" in tags else ""
    return shown(f"{what} of {_parent(run)}{which}{epochs}{digest}{made_by}")


def _takes_all(run: Run) -> bool:
    """Whether the run is an extension of another."""
    return str((run.parent or {}).get("takes", "")).startswith("all")


def _parent(run: Run) -> str:
    """The parent as the command line takes it: a path is stored as that from the folder of runs."""
    name = str((run.parent or {}).get("name", ""))
    path = run.folder.resolve().parent / name
    is_path = not name.startswith(("models:/", "runs:/")) and (os.sep in name or path.exists())
    return str(path) if is_path or _takes_all(run) else name


def _name(folder: Path) -> str:
    """The run's name, of which its folder's is made."""
    return re.sub(r"-[0-9a-f]{10}$", "", folder.name)


def _dataset(run: Run) -> str:
    info = run.history.dataset
    if info is None:
        return ""
    counts = ", ".join(f"{number:,} {name}" for name, number in info.counts.items())
    return f"{shown(info.name)}: {counts}; SHA-256 {info.digest[:16]}…, in {shown(info.source)}"


def _skipped(dataset: Dataset | None) -> str:
    if dataset is None or not dataset.skipped:
        return "" if dataset is None else "none"
    some = "; ".join(f"{shown(one.path)}: it {one.reason}" for one in dataset.skipped[:MOST_NAMED])
    rest = len(dataset.skipped) - MOST_NAMED
    return f"{len(dataset.skipped):,} file(s): {some}" + (f"; and {rest:,} more" if rest > 0 else "")


def _hardware(tags: dict[str, str]) -> str:
    if "gpu" not in tags:
        return ""
    return ", ".join(filter(None, (devices_of(tags), tags.get("precision"))))


def _code(tags: dict[str, str]) -> str:
    known = {"git_commit": "commit", "image": "image", "ngc": "NGC"}
    rest = [
        f"{word} {tags[key]}"
        for key, word in known.items()
        if tags.get(key, "none") not in ("none", "unknown")
    ]
    return ", ".join(filter(None, [tags.get("versions", ""), *rest]))


def _starts(history: RunHistory) -> str:
    if not history.starts:
        return ""
    moments = [datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M") for ms in history.starts]
    if len(moments) == 1:
        return f"one, {moments[0]} UTC, without interruption"
    some = ", ".join(moments[:10]) + (" …" if len(moments) > 10 else "")
    return f"{len(moments)}, so {len(moments) - 1} interruption(s): {some} UTC"


def _time(history: RunHistory) -> str:
    hours = history.seconds / 3600
    text = f"{hours:.2f} hours" if hours >= 1 else f"{history.seconds / 60:.1f} minutes"
    price = _number(history.tags, PRICE)
    return text + (f", ${hours * price:,.2f} at ${price:g} an hour" if price else "")


def _number(tags: dict[str, Any], key: str) -> float:
    try:
        return float(tags.get(key, 0))
    except ValueError:
        return 0.0
