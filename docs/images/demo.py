"""The page of `trainer demo` with the answer to its fourth example.

python docs/images/demo.py ADDRESS FILE.png     ADDRESS: of a running demo; see scripts/screenshots
"""

from __future__ import annotations

import shutil
import sys

from playwright.sync_api import sync_playwright

if __name__ == "__main__":
    address, file = sys.argv[1:]
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 780})
        page.goto(address)
        page.locator(".gallery-item").nth(3).click()
        page.locator("#said b").wait_for()
        page.wait_for_timeout(1000)  # the bars grow
        page.screenshot(path=file)
        browser.close()
