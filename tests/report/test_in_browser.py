"""The page as a browser shows it from the disk; pictures of it are kept in screenshots/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium  # noqa: F401
from tests.report.conftest import HOSTILE
from trainer.run import ReportOptions, report_run

ROOT = Path(__file__).parents[2]
WIDTHS = (390, 1440)  # pixels of a telephone, and of a laptop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole report."""
    out = tmp_path_factory.mktemp("out") / "report"
    return report_run(ReportOptions(folder=finished, out=out, per_class=2)).folder


class Visit:
    """A page that was opened, and what it said and asked for."""

    def __init__(self, browser: Any, path: Path, *, width: int, scheme: str = "light") -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def column(self, table: str, number: int) -> list[str]:
        """What is shown in a column of a table."""
        cells = self.page.locator(f"{table} tbody tr:not([hidden]) td:nth-child({number})")
        return [text.strip() for text in cells.all_inner_texts()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "mistakes_by_class"])
def test_it_opens_from_the_disk_without_an_error_or_a_request_and_fits(
    report: Path, browser: Any, name: str, width: int, scheme: str
) -> None:
    visit = Visit(browser, report / f"{name}.html", width=width, scheme=scheme)
    (ROOT / "screenshots").mkdir(exist_ok=True)
    visit.page.screenshot(path=ROOT / "screenshots" / f"{name}_{scheme}_{width}.png", full_page=True)

    assert visit.said == []
    assert [url for url in visit.asked if not url.startswith(("file:", "data:"))] == []
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter((one) => !(one.complete && one.naturalWidth)).length"
    assert visit.page.evaluate("document.images.length") > 0
    assert visit.page.evaluate(broken) == 0
    visit.page.close()


def test_a_click_on_a_heading_sorts_and_a_second_one_turns_that_round(report: Path, browser: Any) -> None:
    visit = Visit(browser, report / "report.html", width=1440)
    table = "#per-class"
    visit.page.locator(f"{table} th button", has_text="class").click()
    assert visit.column(table, 1) == [HOSTILE, "=dog & 'cow'", "cat"]
    visit.page.locator(f"{table} th button", has_text="recall").click()
    recall = [float(text) for text in visit.column(table, 4)]
    assert recall == sorted(recall, reverse=True)
    visit.page.locator(f"{table} th button", has_text="recall").click()
    assert [float(text) for text in visit.column(table, 4)] == recall[::-1]
    assert visit.page.locator(f"{table} th[aria-sort=ascending]").count() == 1
    assert visit.said == []


def test_a_word_in_the_field_filters_the_classes(report: Path, browser: Any) -> None:
    visit = Visit(browser, report / "report.html", width=390)
    visit.page.get_by_role("searchbox").fill("CAT")

    assert visit.column("#per-class", 1) == ["cat"]
    assert visit.page.locator("#per-class-count").inner_text() == "1 of 3"
    visit.page.get_by_role("searchbox").fill("")
    assert len(visit.column("#per-class", 1)) == 3


def test_a_script_in_a_name_would_not_run(report: Path, browser: Any, tmp_path: Path) -> None:
    """Should a text ever come through unescaped, the page's policy lets its own script run and no other."""
    page = (report / "report.html").read_text()
    body = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    (tmp_path / "report.html").write_text(page.replace("<main>", f"<main>{body}"))
    visit = Visit(browser, tmp_path / "report.html", width=1440)

    assert visit.page.title() != "taken"
    assert any("Content Security Policy" in text for text in visit.said)


def test_it_prints_light_and_whole(report: Path, browser: Any) -> None:
    visit = Visit(browser, report / "report.html", width=1440, scheme="dark")
    visit.page.emulate_media(media="print", color_scheme="dark")

    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert visit.page.evaluate("getComputedStyle(document.querySelector('.tall')).overflowY") == "visible"
    assert visit.page.pdf(format="A4").startswith(b"%PDF")
