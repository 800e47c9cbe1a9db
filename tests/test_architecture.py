"""What holds of the code as a whole and `lint-imports` cannot see."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "trainer").rglob("*.py"))

# Within torch, whose packages an import contract does not tell apart.
DOORS = {
    "torch.distributed": {"distributed.py", "run/_launch.py"},
    "torch.nn.parallel": {"training/_step.py"},
}


def imported(module: Path) -> set[str]:
    """Dotted names of what a module imports, packages and members alike."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("package", DOORS)
def test_each_part_of_torch_has_its_doors(package: str) -> None:
    through = {
        str(module.relative_to(ROOT / "trainer"))
        for module in MODULES
        if any(name == package or name.startswith(f"{package}.") for name in imported(module))
    }

    assert through == DOORS[package]


def test_no_file_of_the_package_is_long() -> None:
    """A file above 350 lines says why in the first paragraph of its docstring ("lines")."""
    for module in MODULES:
        lines = module.read_text().splitlines()
        first = (ast.get_docstring(ast.parse("\n".join(lines))) or "").partition("\n\n")[0]

        assert len(lines) <= 350 or " lines " in first, f"{module} has {len(lines)} lines"


def test_environment_variables_of_torchrun_are_read_in_one_place() -> None:
    for module in MODULES:
        text = module.read_text()
        reads = any(
            f'environ.get("{name}"' in text
            for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )

        assert not reads or module.name == "ranks.py", module


def test_the_formatter_is_off_in_few_places() -> None:
    marked = subprocess.run(
        ["git", "grep", "-c", "fmt: " + "skip"], cwd=ROOT, capture_output=True, text=True
    ).stdout

    assert sum(int(line.rpartition(":")[2]) for line in marked.splitlines()) <= 10
