"""Which names are taken by all who will have to take them: file systems, MLflow, and addresses."""

from __future__ import annotations

import re
import unicodedata

MAX_BYTES = 200  # as UTF-8; a file's name may have 255, and something is added to some


def model_name(name: str) -> str:
    """`name`, if a registered model can be called so. Raises: ValueError."""
    # MLflow's registry takes more than its logged models do, of which a version is made.
    if not re.fullmatch(r"[\w-]+", name):
        meant = re.sub(r"[^\w-]+", "-", name).strip("-")
        hint = f"; use {meant}" if meant else ""
        raise ValueError(f"a model's name has letters, digits, - and _ only{hint}")
    return _short(name)


def experiment_name(name: str) -> str:
    """`name`, if an experiment and its folder can be called so. Raises: ValueError."""
    if not re.fullmatch(r"\w([\w .-]*[\w-])?", name):
        raise ValueError(
            "an experiment's name has letters, digits, blanks and . - _ only, and begins with a letter or digit"
        )
    return _short(name)


def folder_name(name: str) -> str:
    """`name`, if a run and its folder can be called so. Raises: ValueError."""
    if not name or "/" in name or name.startswith("."):
        raise ValueError("a folder's name is not empty and has no slashes and no leading dot")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise ValueError("a folder's name has no line ends, control characters and bytes that are no UTF-8")
    return _short(name)


def _short(name: str) -> str:
    if (size := len(name.encode())) > MAX_BYTES:
        raise ValueError(f"it is {size} bytes long; {MAX_BYTES} are taken everywhere")
    return name
