"""What somebody who typed a wrong name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

# The field's other words for settings, for whoever types them.
ALIASES = {
    "lr": "optimizer.base_lr",
    "learning_rate": "optimizer.base_lr",
    "max_lr": "optimizer.base_lr",
    "peak_lr": "optimizer.base_lr",
    "lr_per_256": "optimizer.base_lr",
    "batch": "global_batch",
    "batch_size": "global_batch",
    "global_batch_size": "global_batch",
    "bs": "global_batch",
    "epoch": "epochs",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "wd": "optimizer.weight_decay",
    "weight_decay": "optimizer.weight_decay",
    "momentum": "optimizer.momentum",
    "opt": "optimizer.name",
    "optim": "optimizer.name",
    "optimizer": "optimizer.name",
    "clip_grad": "optimizer.clip_norm",
    "clip_grad_norm": "optimizer.clip_norm",
    "max_grad_norm": "optimizer.clip_norm",
    "sched": "schedule.name",
    "scheduler": "schedule.name",
    "lr_scheduler": "schedule.name",
    "schedule": "schedule.name",
    "warmup": "schedule.warmup_epochs",
    "amp": "precision",
    "fp16": "precision",
    "bf16": "precision",
    "dtype": "precision",
    "img_size": "preprocess.train_size",
    "image_size": "preprocess.train_size",
    "resolution": "preprocess.train_size",
    "crop_size": "preprocess.train_size",
    "smoothing": "label_smoothing",
    "ema": "ema_decay",
    "model_ema": "ema_decay",
    "arch": "model",
    "architecture": "model",
    "log_interval": "log_every",
    "sync_bn": "sync_batch_norm",
    "bce_loss": "loss",
    "reprob": "preprocess.erasing",
    "random_erase": "preprocess.erasing",
    "drop_path": "stochastic_depth",
    "drop_path_rate": "stochastic_depth",
    "aug_repeats": "repeated_augmentation",
    "ra_reps": "repeated_augmentation",
    "ra_sampler": "repeated_augmentation",
    "bce_target_thresh": "bce_target_threshold",
    "aa": "preprocess.augment",
    "auto_augment": "preprocess.augment",
    "mixup_off_epoch": "phases",
    "fixres": "phases",
}
# What is no setting of a recipe but an option of the command.
FLAGS = {
    "workers": "DALI's threads follow from the cores; there is nothing to set",
    "num_workers": "DALI's threads follow from the cores; there is nothing to set",
    "compile": "it is an option of the command, --compile",
    "torch_compile": "it is an option of the command, --compile",
    "batch_per_gpu": "it is an option of the command, --batch-per-gpu",
    "micro_batch": "it is an option of the command, --batch-per-gpu",
    "accumulation_steps": "it follows from global_batch and the option --batch-per-gpu",
    "grad_accum_steps": "it follows from global_batch and the option --batch-per-gpu",
    "device": "it is an option of the command, --device",
    "gpus": "it is an option of the command, --nproc-per-node",
    "nproc_per_node": "it is an option of the command, --nproc-per-node",
    "data": "it is an option of the command, --data",
    "decoder": "it is an option of the command, --decoder",
}


def setting_hint(key: str, known: Iterable[str]) -> str:
    """A hint to the setting or option that `key` may be meant to be: a word of the field, or a misspelling.

    Args:
        key: a dotted key that is no setting.
        known: all settings by dotted key.
    """
    known = list(known)
    section, _, last = key.rpartition(".")
    word = last.lower().replace("-", "_")
    if word in FLAGS:
        return f": {FLAGS[word]}"
    if word in ALIASES and ALIASES[word] != key and (not section or ALIASES[word].startswith(f"{section}.")):
        return f"; did you mean {ALIASES[word]}?"
    sections = {name.rpartition(".")[0] for name in known}
    close = [] if section in sections else difflib.get_close_matches(key, known, n=1, cutoff=0.85)
    # The last part alone was given, or stands in another section.
    elsewhere = close or [name for name in known if name.rpartition(".")[2] == last]
    if len(elsewhere) == 1:
        return f"; did you mean {elsewhere[0]}?"
    if word in ALIASES and ALIASES[word] != key:
        return f"; did you mean {ALIASES[word]}?"
    by_last = {name.rpartition(".")[2]: name for name in known}
    return nearest(last, by_last, names=by_last) or "; docs/recipes.md lists all settings"


def nearest(word: str, known: Iterable[str], *, names: Mapping[str, str] | None = None) -> str:
    """A hint to the word among `known` that `word` is a misspelling of; empty if there is none.

    Args:
        word: what was typed.
        known: what can be meant.
        names: what each of these is called in the hint, if not by itself.
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.75)
    return f"; did you mean {(names or {}).get(close[0], close[0])}?" if close else ""
