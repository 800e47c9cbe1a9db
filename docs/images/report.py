"""A picture of a report's page: its first screen, and below that its surest mistakes.

python docs/images/report.py RUN/report/report.html FILE.png     see scripts/screenshots
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT, MISTAKES = 1440, 680, 480  # pixels


def draw(page_file: Path, file: Path) -> None:
    """Draw the page into `file`."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(page_file.resolve().as_uri())
        parts = [page.screenshot()]
        mistakes = page.locator("#mistakes").bounding_box()
        if mistakes:
            clip = {"x": 0, "y": mistakes["y"], "width": WIDTH, "height": min(MISTAKES, mistakes["height"])}
            parts.append(page.screenshot(full_page=True, clip=clip))
        browser.close()
    pictures = [Image.open(io.BytesIO(part)).convert("RGB") for part in parts]
    joined = Image.new("RGB", (WIDTH, sum(picture.height for picture in pictures)), "white")
    top = 0
    for picture in pictures:
        joined.paste(picture, (0, top))
        top += picture.height
    joined.save(file, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
