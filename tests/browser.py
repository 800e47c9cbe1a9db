"""Debian's Chromium by Playwright: importing `chromium` brings the fixture `browser`, or skips the module."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")

if not CHROMIUM and not os.environ.get("CI"):
    pytest.skip("there is no chromium here (Debian: apt install chromium)", allow_module_level=True)
sync_api = (
    import_module("playwright.sync_api")
    if os.environ.get("CI")
    else pytest.importorskip("playwright.sync_api", reason="./scripts/install --group browser brings it")
)


@pytest.fixture(scope="module", name="browser")
def chromium() -> Iterator[Any]:
    """A browser that has never been anywhere."""
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()
