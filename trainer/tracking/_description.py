"""Descriptions in Markdown, as MLflow's UI shows them for a run, a registered model and its versions.

The first line has the result and no markup: the UI's lists show it alone, as it is. No tables in here: the UI draws
them without gaps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from trainer.tracking._history import RunHistory
from trainer.tracking._progress import progress, warnings
from trainer.tracking._saved_model import SavedModel

NOTE = "mlflow.note.content"  # the tag that holds a run's description

_ITEM = "\n- **"
_OPEN, _CLOSE = "\n\n<!-- trainer ", " -->"  # the UI shows no comments


def run_description(
    history: RunHistory, saved: SavedModel | None = None, model_uri: str | None = None
) -> str:
    """Description of a run: how far it is, recipe, data set, hardware, code; at its end the result and how to use it.

    Args:
        history: the run.
        saved: the model it ended with, once it is registered …
        model_uri: … as this.
    """
    if not saved or not model_uri:
        items = _items(history)
        if noted := warnings(history):
            items["Last warnings"] = "; ".join(noted)
        return _signed(progress(history), history.description, _list(items))
    items = {"Model": f"`{model_uri}`", **_items(history)}
    return _signed(_result(saved), history.description, _list(items), _usage(model_uri))


def version_description(
    history: RunHistory, saved: SavedModel, info: Mapping[str, Any], model_uri: str
) -> str:
    """Description of a version of a registered model.

    Args:
        history: the run that made it.
        saved: what was measured.
        info: the model's stored `ModelInfo`.
        model_uri: as what it is registered.
    """
    size, resize = info["preprocess"]["val_size"], info["preprocess"]["val_resize"]
    items = {
        "Network": f"{info['architecture']}, {len(info['classes']):,} classes",
        **_items(history),
        "Input": f"N x 3 x {size} x {size}, float32, RGB: shorter side resized to {resize}, centre crop, "
        f"pixels in 0..1 minus mean ({_numbers(info['preprocess'].get('mean'))}), "
        f"divided by std ({_numbers(info['preprocess'].get('std'))})",
        "Output": f"N x {len(info['classes'])} logits, in the order of `classes` in `info.json`",
    }
    return _signed(_result(saved), history.description, _list(items), _usage(model_uri))


def model_description(history: RunHistory, saved: SavedModel, info: Mapping[str, Any]) -> str:
    """Description of a registered model, for all of its versions."""
    dataset = history.dataset.name if history.dataset else "a data set"
    return _signed(
        f"{info['architecture']} for the {len(info['classes']):,} classes of {dataset}, trained by `trainer train`.",
        "Alias `candidate` is the best version whose files came back from this server as they were sent: a newer one "
        "takes it unless it is worse on the same validation images. `champion` is what devices pull: `trainer promote` "
        "moves it, to a better version only, and the tags of this model say when, by whom and why; `previous` is what "
        "it was before. "
        "Accuracy, data set and preprocessing of a version are in its description.",
        _usage(f"models:/{saved.name}@candidate"),
    )


def may_replace(text: str | None) -> bool:
    """Whether a description is missing, or one of these that nobody has edited."""
    if not text:
        return True
    body, opening, rest = text.rpartition(_OPEN)
    return bool(opening) and rest == _digest(body) + _CLOSE


def with_paragraph(text: str, paragraph: str) -> str:
    """One of these descriptions, which nobody has edited, with a paragraph more at its end, once."""
    body = text.rpartition(_OPEN)[0]
    return text if paragraph in body else _signed(body, paragraph)


def with_report(text: str, page: str, curves: str) -> str:
    """One of these descriptions with the report of its run; one that has it stays as it is.

    Args:
        text: the description, which nobody has edited.
        page: address of the report.
        curves: address of the picture of the curves.
    """
    body = text.rpartition(_OPEN)[0]
    link = f"\n- **Report**: [curves, mistakes, confusion]({page})"
    if link in body or _ITEM not in body:
        return text
    first, last = body.index(_ITEM), body.rindex(_ITEM)
    end = body.find("\n", last + 1) if "\n" in body[last + 1 :] else len(body)
    # First, for MLflow folds all but the first lines.
    return _signed(
        f"{body[:first]}{link}{body[first:end]}\n\n![curves of the training]({curves}){body[end:]}"
    )


def _items(history: RunHistory) -> dict[str, str]:
    tags, params, dataset = history.tags, history.params, history.dataset
    items = {}
    if recipe := tags.get("recipe"):
        items["Recipe"] = f"`{recipe}`"
        if "epochs" in params and "global_batch" in params:
            items["Recipe"] += f", {params['epochs']} epochs, {params['global_batch']:,} images per step"
    if parent := tags.get("parent_model"):
        run = f" of run `{tags['parent_run_id']}`" if "parent_run_id" in tags else ""
        of = "all" if tags.get("parent_weights") == "all" else "the weights"
        items["Began with"] = f"{of}{run}: `{parent}`, SHA-256 `{tags.get('parent_digest', '')[:10]}`"
    if dataset:
        counts = ", ".join(f"{number:,} {name}" for name, number in dataset.counts.items())
        items["Data set"] = f"{dataset.name} (`{dataset.digest[:10]}`)" + (f": {counts}" if counts else "")
        if dataset.completeness:
            items["Data set"] += f"; {dataset.completeness}"
    if "gpu" in tags:
        items["Hardware"] = ", ".join(filter(None, (devices_of(tags), tags.get("precision"))))
    if versions := tags.get("versions"):
        items["Code"] = versions + (f", commit `{tags['git_commit'][:10]}`" if "git_commit" in tags else "")
    return items


def devices_of(tags: Mapping[str, str]) -> str:
    """What a run was trained on, by its tags."""
    number, device = tags.get("world_size", "1"), tags["gpu"]
    return "CPU" if (number, device) == ("1", "cpu") else f"{number} x {device}"


def _result(saved: SavedModel) -> str:
    return (
        f"top-1 {saved.top1:.2%}, top-5 {saved.top5:.2%} of {saved.num_images:,} validation images, in fp32"
    )


def _usage(model_uri: str) -> str:
    return (
        "With `MLFLOW_TRACKING_URI` set to this server, load it:\n\n"
        f'```python\nimport mlflow\n\nmodel = mlflow.pytorch.load_model("{model_uri}")\n```\n\n'
        f"or export it for a Jetson:\n\n```bash\ntrainer export {model_uri} --out bundle\n```"
    )


def _list(items: Mapping[str, str]) -> str:
    return "\n".join(f"- **{name}**: {text}" for name, text in items.items())


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in values or ())


def _signed(*paragraphs: str) -> str:
    """The text with its digest in a comment, by which an edited one is told from one of these."""
    body = "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
    return f"{body}{_OPEN}{_digest(body)}{_CLOSE}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
