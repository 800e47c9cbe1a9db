"""The documentation names what there is: settings with their defaults, command lines that parse, files that exist."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from trainer.cli import make_parser
from trainer.cli._recipes import INSTANCES
from trainer.config import Recipe, load_recipe, shipped_recipes
from trainer.instances import find_instance
from trainer.performance import estimate

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "docs" / "recipes.md"
# docs/performance/ has dated reports: they say what was run at the commit that they name.
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/decisions/*.md")])
PAGES.remove(ROOT / "CHANGELOG.md")  # it names what is no more
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

FILES = [
    str(path.relative_to(ROOT))
    for path in [
        *ROOT.glob("*.*"),
        *(
            path
            for folder in ("benchmarks", "deploy", "docker", "docs", "scripts", "tests", "trainer")
            for path in (ROOT / folder).rglob("*.*")
        ),
    ]
]

AUGMENTED = "preprocess: {augment: randaugment, erasing: 0.1}\n"
# What stands for a value in a quoted command.
PLACEHOLDERS = {"N": "1", "SECONDS": "1", "USD": "1", "PX": "1", "LR": "0.1"}
# Flags that are quoted without their command, and are not ours.
OTHERS = {"--require-hashes", "--no-deps", "--standalone", "--rdzv-id"}
FILE = re.compile(r"(?<![\w./$<~-])[\w.-]+/[\w./-]*\.(?:py|md|yaml|toml)(?![\w/])")


def table(page: Path, heading: str) -> list[list[str]]:
    """The cells of each row of the table whose first column is called so."""
    lines = iter(page.read_text().splitlines())
    next(line for line in lines if line.startswith(f"| {heading} |"))
    next(lines)
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def settings(of: Any = Recipe, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All keys of a recipe file by dotted name, with their defaults."""
    for field in dataclasses.fields(of):
        if dataclasses.is_dataclass(field.default):
            yield from settings(field.default, f"{prefix}{field.name}.")
        elif prefix + field.name != "name":
            yield prefix + field.name, field.default


def quoted(page: Path) -> Iterator[str]:
    """Each piece of code of a page: lines of code blocks, and what stands between backticks."""
    prose = []
    for line in page.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("    "):
            yield line.strip()
        else:
            prose.append(line)
    for code in re.findall(r"`([^`]+)`", "\n".join(prose)):
        yield " ".join(code.split())


def command_lines(page: Path) -> Iterator[list[str]]:
    """The arguments of each quoted `trainer …`."""
    for code in quoted(page):
        for command in re.split(r" && ", code.partition(" #")[0]):
            words = re.sub(r"^(\S*/bin/|uv run )", "", command.strip())
            if words.startswith("trainer ") and not words.startswith("trainer ."):
                yield [PLACEHOLDERS.get(word, word) for word in shlex.split(words)[1:]]


def parse(arguments: list[str]) -> str:
    """Parse them as `trainer` does. Returns: what is wrong, empty if nothing is."""
    try:
        make_parser(arguments).parse_args(arguments)
    except SystemExit as end:
        return "" if end.code == 0 else str(end)
    return ""


def parser_of(arguments: list[str]) -> tuple[argparse.ArgumentParser, bool]:
    """The parser of the command that these begin with, and whether there is nothing but its name."""
    parser, rest = make_parser(arguments), list(arguments)
    while rest:
        commands = next((a.choices for a in parser._actions if isinstance(a.choices, dict)), {})
        if rest[0] not in commands:
            break
        parser = commands[rest.pop(0)]
    return parser, not rest


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """All flags of a parser and of the commands below it."""
    flags: set[str] = set()
    for action in parser._actions:
        flags.update(action.option_strings)
        if isinstance(action.choices, dict):
            for below in action.choices.values():
                flags |= flags_of(below)
    return flags


def test_every_setting_is_in_the_table_with_its_default_and_no_other() -> None:
    rows = [[cell.strip("`") for cell in row[:2]] for row in table(RECIPES, "setting")]
    defaults = dict(settings())

    assert [key for key, _ in rows] == list(defaults), "in the order of trainer/config"
    for key, shown in rows:
        if defaults[key] is dataclasses.MISSING:
            assert shown == "required"
        else:
            written = TypeAdapter(Recipe).validate_python(nested(key, yaml.safe_load(shown)))
            assert rounded(written.flat()[key]) == rounded(defaults[key]), key


def nested(key: str, value: Any) -> dict[str, Any]:
    """The recipe that sets nothing but this key, and what has no default."""
    section, _, name = key.rpartition(".")
    return {"registered_model_name": "any", **({section: {name: value}} if section else {name: value})}


def rounded(value: Any) -> Any:
    """Thirds are shown with three digits."""
    if isinstance(value, tuple):
        return tuple(map(rounded, value))
    return round(value, 3 if value > 1e-3 else 9) if isinstance(value, float) else value


def test_every_shipped_recipe_is_in_the_table_with_its_bar() -> None:
    bars = {
        name: row[0] for row in table(RECIPES, "bar, top-1") for name in re.findall(r"`([\w-]+)`", row[1])
    }

    assert sorted(bars) == shipped_recipes()
    for name, bar in bars.items():
        wanted = load_recipe(name).bar
        assert bar == ("\N{EN DASH}" if wanted is None else f"{wanted:.0%}".replace("%", " %")), name


def test_hours_and_dollars_of_the_table_are_those_of_trainer_recipes() -> None:
    for row in table(RECIPES, "bar, top-1"):
        (name, *others) = re.findall(r"`([\w-]+)`", row[1])
        if others or row[0] == "\N{EN DASH}":
            continue
        for cell, instance in zip(row[4:7], INSTANCES, strict=True):
            hours, dollars = map(float, re.findall(r"([\d.]+) h, \$(\d+)", cell)[0])
            predicted = estimate(load_recipe(name), find_instance(instance))
            assert hours == pytest.approx(predicted.hours, abs=0.51 if hours >= 3 else 0.06), (name, instance)
            assert dollars == pytest.approx(predicted.usd, abs=0.51), (name, instance)


def test_the_example_of_a_recipe_is_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"^    # flowers\.yaml\n((?:    .*\n)+)", RECIPES.read_text(), re.MULTILINE)
    (tmp_path / "flowers.yaml").write_text(example)

    assert load_recipe(str(tmp_path / "flowers.yaml")).registered_model_name == "resnet50-flowers"


def test_the_examples_of_phases_are_some(tmp_path: Path) -> None:
    examples = re.findall(
        r"((?:^    preprocess: .*\n)?^    phases:\n(?:      - .*\n)+)", RECIPES.read_text(), re.M
    )
    for example in examples:
        before = "mixup: 0.2\ncutmix: 1.0\n" + ("" if "trivial" in example else AUGMENTED)
        (tmp_path / "r.yaml").write_text(f"registered_model_name: r\n{before}{textwrap.dedent(example)}")
        assert load_recipe(str(tmp_path / "r.yaml")).phases

    assert len(examples) == 2


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_that_is_set_on_a_command_line_exists(name: str) -> None:
    overrides = re.findall(r"--set\s+([\w.]+=[^\s`]+)", (ROOT / name).read_text())

    for override in overrides:
        if override != "KEY=VALUE" and ":" not in override:
            load_recipe("rn50-75", [override])


@pytest.mark.parametrize("name", NAMES)
def test_every_quoted_command_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in command_lines(ROOT / name):
        parser, bare = parser_of(arguments)
        flags = {word.partition("=")[0] for word in arguments if word.startswith("--")}

        assert flags <= flags_of(parser) | {"--help", "--version"}, arguments
        # A command that is named, or shortened, lacks arguments.
        if not bare and not {"…", "FORM"} & set(arguments):
            wrong = parse(arguments)
            said = capsys.readouterr().err
            assert not wrong or "arguments are required" in said, f"{arguments}: {said}"


@pytest.mark.parametrize("name", NAMES)
def test_every_flag_that_is_quoted_alone_is_one_of_a_command_or_script(name: str) -> None:
    known = flags_of(make_parser([])) | OTHERS
    folders = (ROOT / "scripts", ROOT / "trainer" / "export" / "device")
    scripts = [
        path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"
    ]
    known |= set(re.findall(r"--[a-z][a-z0-9-]+", "\n".join(path.read_text() for path in scripts)))
    for code in quoted(ROOT / name):
        if code.startswith("--"):
            assert code.split()[0].partition("=")[0] in known, code


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_is_named_exists(name: str) -> None:
    """A page may leave out the first folders of a path: `training/_loop.py`, `_step.py`."""
    text = re.sub(r"\S+://\S+", "", (ROOT / name).read_text())
    named = [path.lstrip("./") for path in [*FILE.findall(text), *re.findall(r"`(_\w+\.py)`", text)]]
    there = {f"/{file}" for file in FILES}

    missing = [
        path
        for path in named
        if not any(file.endswith(f"/{path}") for file in there)
        and not re.search(r"(^|/|_)[A-Z]{4,}\.(py|yaml)$", path)  # NAME.yaml stands for any
    ]
    assert not missing


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_page_and_a_heading_of_it(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)", page.read_text()):
        path, _, heading = target.partition("#")
        there = page.parent / path if path else page
        assert "://" in target or there.exists(), target
        assert "://" in target or not heading or heading in anchors(there), target
