"""Where the images of a data set lie on disk, if not at their paths in the manifest.

These paths are `SPLIT/CLASS/NAME` however the images lie, so the same images have the same manifest and digest. A
pattern for each split says where they are: `ILSVRC/Data/CLS-LOC/val/{name}`, without {class} where one folder holds
all classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLASS, NAME = "{class}", "{name}"
# Folders that are no way up or round, with {class} as one of them or not, then {name}.
_PATTERN = re.compile(r"(?!/)(?:(?!\.{1,2}/)[^/\0{}]+/)*(?:\{class\}/)?(?:(?!\.{1,2}/)[^/\0{}]+/)*\{name\}")


@dataclass(frozen=True)
class Places:
    """The folder of the images if it is not the manifest's, and a pattern for each split that has one."""

    root: str = ""  # absolute
    patterns: Mapping[str, str] = field(default_factory=dict)  # by split

    def entry(self) -> dict[str, str]:
        """What `dataset.json` says of it; nothing if the images are at their paths."""
        return {**({"root": self.root} if self.root else {}), **self.patterns}

    def folder(self, manifest: Path) -> Path:
        """Folder of the images of the manifest in a folder."""
        return Path(self.root) if self.root else manifest

    def file_of(self, path: str) -> str:
        """Path below the images' folder of the image that has this path in the manifest."""
        pattern = self.patterns.get(path.partition("/")[0])
        return os.fsdecode(placed(pattern)(os.fsencode(path))) if pattern else path


def places_in(metadata: Mapping[str, Any]) -> Places:
    """What `dataset.json` says of where the images are."""
    patterns = dict(metadata.get("images", {}))
    return Places(patterns.pop("root", ""), patterns)


def are_places(value: object) -> bool:
    """Whether a value may stand in `dataset.json` for it: what a pattern makes of a path is below the root."""
    if not isinstance(value, Mapping) or not value.keys() <= {"root", "train", "val"}:
        return False
    if not all(isinstance(one, str) for one in value.values()):
        return False
    root = value.get("root", "/")
    patterns = [pattern for name, pattern in value.items() if name != "root"]
    return (
        os.path.isabs(root)
        and "\0" not in root
        and os.path.normpath(root) == root
        and all(map(_PATTERN.fullmatch, patterns))
    )


def placed(pattern: str) -> Callable[[bytes], bytes]:
    """A function from the paths SPLIT/CLASS/NAME of a manifest to those below the images' folder."""
    if not pattern:
        return bytes
    before, by_class, after = os.fsencode(pattern.removesuffix(NAME)).partition(os.fsencode(CLASS))

    def place(path: bytes) -> bytes:
        _, class_folder, name = path.split(b"/", 2)
        return before + class_folder + after + name if by_class else before + name

    return place
