"""The command line as a whole: what it lists, what it accepts, and what it does not import."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module

import pytest

from trainer.cli import GROUPS, command_names, main, make_parser
from trainer.cli._terminal import show_table

# A new flag takes a decision: it is added here as well.
FLAGS = {
    "bench": "",
    "check": "--decode --json --quarantine",
    "cloud": "",
    "compare": "--json --out --price --runs",
    "demo": "--port --runs --trust",
    "estimate": "--budget --data --disk-iops --disk-mb --images-per-second --instance --json --price --set "
    "--spot-price --until",
    "evaluate": "--batch-size --data --device --json --nproc-per-node --partial --per-class --record --runs --trust "
    "--tta",
    "export": "--data --device --format --json --log --out --parity --runs --trust",
    "extend": "--batch-per-gpu --checkpoint-interval --compile --cooldown --data --decoder --device --dry-run --epochs "
    "--instance --json --max-dollars --max-hours --max-restarts --mirror-every --name --no-export --no-report "
    "--nproc-per-node --offline --partial --price --runs --runs-remote --tensorboard --timeout --unmirrored "
    "--until-top1",
    "fetch": "--json --out --workers",
    "find-lr": "--batch-per-gpu --compile --data --decoder --device --json --max-lr --min-lr --name --offline "
    "--partial --runs --set --steps",
    "mirror": "--begun --checkpoint-interval --epoch-steps --follow --mirror-every --restore --runs-remote "
    "--unmirrored",
    "prepare": "",
    "promote": "--json --runs",
    "publish": "--dry-run --json --license --out --public --repo --runs --space --trust --with-photos "
    "--with-report",
    "recipes": "--json",
    "report": "--against --data --device --evaluate --json --out --per-class",
    "rollback": "--json --reason --runs",
    "summary": "--classes --json --set",
    "sync": "--candidate --follow",
    "train": "--batch-per-gpu --checkpoint-interval --compile --data --decoder --device --dry-run --fit --from "
    "--instance --json --max-dollars --max-hours --max-restarts --mirror-every --name --no-export --no-report "
    "--nproc-per-node --offline --partial --price --runs --runs-remote --set --tensorboard --timeout --trust "
    "--unmirrored --until-top1 --weights",
}


@pytest.mark.parametrize("name", command_names())
def test_the_flags_of_each_command_are_those_that_were_decided_on(name: str) -> None:
    parser = make_parser([name])
    (commands,) = (action.choices for action in parser._actions if isinstance(action.choices, dict))
    flags = {flag for action in commands[name]._actions for flag in action.option_strings}

    assert flags - {"-h", "--help"} == set(FLAGS[name].split())


def test_each_command_has_a_place_of_its_own_in_its_group() -> None:
    modules = [import_module(f"trainer.cli._{name.replace('-', '_')}") for name in command_names()]
    places = [(module.GROUP, module.ORDER) for module in modules]

    assert len(set(places)) == len(places)


def test_help_groups_the_commands_by_the_users_way(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out

    assert [shown.index(f"\n{title}:") for title in GROUPS.values()] == sorted(
        shown.index(f"\n{title}:") for title in GROUPS.values()
    )
    listed = [line.split()[0] for line in shown.splitlines() if line.startswith("  ") and line.split()]
    assert [name for name in listed if name in command_names()] == [
        "prepare",
        "check",
        "fetch",
        "recipes",
        "estimate",
        "find-lr",
        "train",
        "extend",
        "summary",
        "cloud",
        "evaluate",
        "sync",
        "report",
        "compare",
        "demo",
        "mirror",
        "promote",
        "rollback",
        "export",
        "publish",
        "bench",
    ]
    assert all(len(line) <= 110 for line in shown.splitlines())


@pytest.mark.parametrize(
    ("where", "shown", "said"),
    [
        ("| head -1", "recipe ", ""),
        (">&-", "", ""),
        (">/dev/full", "", "trainer: No space left on device; make room where the output goes"),
    ],
)
def test_an_output_that_takes_no_more_gets_no_traceback(where: str, shown: str, said: str) -> None:
    command = f"{sys.executable} -m trainer recipes {where}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)

    assert done.stdout.startswith(shown)
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == bool(said)


@pytest.mark.parametrize("name", command_names())
def test_each_command_has_help_with_an_example_of_itself(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])

    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: trainer {name} ")
    assert f"example:  trainer {name}" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["recipes"],
        ["estimate", "rn50-onecycle"],
        ["train", "digits", "--data", "nowhere"],
        ["evaluate", "foo", "--data", "nowhere"],
        ["find-lr", "digits", "--set", "lr=1", "--data", "nowhere"],
    ],
)
def test_help_lists_and_wrong_input_do_not_wait_for_torch(arguments: list[str]) -> None:
    code = (
        f"import sys\nfrom trainer.cli import main\ntry:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'nvidia.dali', 'mlflow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--checkpoint-interval", "abc", "'abc' is not a number above 0"),
        ("--price", "$0.53", "'$0.53' is not a number above 0, such as 0.53"),
        ("--price", "nan", "'nan' is not a number above 0"),
        ("--timeout", "1e300", "'1e300' is not a number above 0"),
        ("--max-restarts", "-1", "'-1' is not a whole number of at least 0"),
        ("--batch-per-gpu", "2.5", "'2.5' is not a whole number above 0"),
    ],
)
def test_a_wrong_number_is_refused_in_words(
    capsys: pytest.CaptureFixture[str], option: str, value: str, says: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "digits", "--data", "nowhere", f"{option}={value}"])

    assert f"argument {option}: {says}" in capsys.readouterr().err


def test_names_in_a_table_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["[bold]bee", "[red]", "[/]", ":cat:", "a\\"]
    show_table("[unlabeled]", dict.fromkeys(names, "[link=x]value[/link]"))

    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["", "[unlabeled]"]
    assert [line.split()[0] for line in shown[2:]] == names
    assert all(line.endswith("[link=x]value[/link]") for line in shown[2:])


@pytest.mark.parametrize("arguments", [["--help"], ["recipes"]])
def test_a_terminal_without_utf8_gets_no_traceback(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        capture_output=True,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )

    assert (done.returncode, done.stderr) == (0, b"")


def test_a_line_is_shown_once_whatever_libraries_do_to_the_root_logger() -> None:
    program = (
        "import logging; from trainer.cli._terminal import configure_logging; configure_logging(); "
        "logging.warning('of a library'); logging.getLogger('trainer.run').warning('of ours')"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr

    assert (said.count("of a library"), said.count("of ours")) == (1, 1)
