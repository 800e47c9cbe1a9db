"""The demo of a bundle in a browser. `app.py` needs nothing of this package: a container or a Space has it alone.

A Space is `APP` and `REQUIREMENTS` beside a bundle in the folder `BUNDLE`; the app's docstring has the rest.
"""

from __future__ import annotations

from pathlib import Path

APP = Path(__file__).with_name("app.py")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")  # ranges; docker/demo has them locked
BUNDLE = "bundle"  # folder beside APP that it shows if it is given none

__all__ = ["APP", "BUNDLE", "REQUIREMENTS"]
