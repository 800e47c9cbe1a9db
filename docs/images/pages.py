"""Pictures of pages as a visitor with a browser sees them: MLflow's charts of a run.

python docs/images/pages.py ADDRESS RUN_ID FILE.png     ADDRESS: of an MLflow server that has the run

See scripts/screenshots.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

WIDTH, HEIGHT = 1440, 900
CHARTS = ".js-plotly-plot"


def charts(browser: Browser, address: str, run_id: str, file: Path) -> None:
    """MLflow's charts of a run, without the assistant and the charts' toolbars that cover them."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.goto(f"{address}/#/experiments/1/runs/{run_id}/model-metrics?workflowType=machine_learning")
    page.wait_for_selector(CHARTS)
    page.add_style_tag(content=".modebar { display: none }")
    close = page.get_by_role("button", name="Close")
    if close.count():
        close.first.click()
    page.wait_for_timeout(3000)  # the charts take the room
    page.screenshot(path=file)


if __name__ == "__main__":
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        charts(started, sys.argv[1], sys.argv[2], Path(sys.argv[3]))
        started.close()
