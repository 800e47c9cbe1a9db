"""Recipes from files, `--set` and run folders, and what is said where one is wrong."""

from __future__ import annotations

import dataclasses
import re
import reprlib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from trainer.config._phase import phase_settings
from trainer.config._recipe import Recipe
from trainer.errors import ConfigError
from trainer.files import read_regular
from trainer.hints import nearest, setting_hint
from trainer.recipes import parse_yaml


def stored_recipe(content: Mapping[str, Any]) -> Recipe:
    """The recipe that `Recipe.as_dict` has given. Raises: ConfigError if it is none of this version."""
    try:
        return TypeAdapter(Recipe).validate_python(content)
    except ValidationError as error:
        raise ConfigError(f"a stored recipe does not fit this version: {_sentence(error, ())}") from None


def reason_of(error: ValueError) -> str:
    """Why a recipe cannot have the settings that `dataclasses.replace` was to give it, without pydantic's words."""
    return _sentence(error, ()) if isinstance(error, ValidationError) else str(error)


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("trainer.recipes")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a shipped recipe or a YAML file and apply `KEY=VALUE` overrides.

    Raises: ConfigError with the file, the key and what would be right.
    """
    settings = _read(name)
    known = [*_flatten_fields(Recipe)]
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override!r} is not KEY=VALUE; write for example --set epochs=30")
        if key not in known:
            raise ConfigError(f"--set {key}: there is no such setting{setting_hint(key, known)}")
        _assign(
            settings,
            key.split("."),
            parse_yaml(text, f"--set {key}={text[:99]}: the value is not valid YAML; quote it"),
        )
    try:
        return TypeAdapter(Recipe).validate_python({**settings, "name": Path(name).stem})
    except ValidationError as error:
        raise ConfigError(f"recipe {name}: {_sentence(error, known)}") from None


def _read(name: str) -> dict[str, Any]:
    if name in shipped_recipes():
        text = resources.files("trainer.recipes").joinpath(f"{name}.yaml").read_text("utf-8")
    elif name.endswith((".yaml", ".yml")):
        try:
            text = read_regular(Path(name)).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"recipe file {name} cannot be read: {reason}") from None
    else:
        raise ConfigError(
            f"there is no recipe {name!r}{nearest(name, shipped_recipes())}; "
            f"shipped are {', '.join(shipped_recipes())}, or give the path of a .yaml file"
        )
    settings = parse_yaml(text, f"recipe {name} is not YAML")
    if not isinstance(settings, dict):
        raise ConfigError(f"recipe {name} must hold KEY: VALUE lines; see docs/recipes.md for an example")
    if "name" in settings:
        raise ConfigError(f"recipe {name}: there is no setting name; a recipe is called as its file")
    return settings


def _assign(settings: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = settings.get(part)
        settings[part] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        settings = inner
    settings[path[-1]] = value


def _flatten_fields(of: Any, prefix: str = "") -> Iterable[str]:
    for field in dataclasses.fields(of):
        if dataclasses.is_dataclass(field.default):
            yield from _flatten_fields(field.default, f"{prefix}{field.name}.")
        elif prefix + field.name != "name":
            yield prefix + field.name


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring = 2, 100


def _sentence(error: ValidationError, known: Iterable[str]) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden" if first["loc"][0] == "phases":
            return _not_of_a_phase(key, known)
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"there is no setting {key}{setting_hint(key, known)}"
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return f"the setting {key} is missing"
        case "value_error" if not isinstance(first["input"], str):  # of a section, which names its settings
            return str(first["ctx"]["error"])
    said = first["msg"].replace("Input should be", "must be").removeprefix("Value error, ")
    said = re.sub("a dictionary or an instance of .*", "KEY: VALUE pairs", said).replace(
        "valid tuple", "list"
    )
    # reprlib: a few lines of YAML may stand for gigabytes
    return f"{key} = {_SHORT.repr(first['input'])}: {said[0].lower()}{said[1:]}"


def _not_of_a_phase(key: str, known: Iterable[str]) -> str:
    """What is said of a key in a phase that is none."""
    _, _, setting = key.split(".", 2)
    can, hint = phase_settings(), setting_hint(setting, known)
    meant = "".join(re.findall(r"did you mean (\S+)\?", hint)) or setting
    if meant in known and meant not in can:
        return f"{meant} cannot change in a phase; what can: {', '.join(can)}"
    return f"there is no setting {key}" + re.sub(r"preprocess\.(\w+)", r"preprocess: {\1: …}", hint)
