"""`docker compose up demo`, as a person with a browser meets it; pictures of its page are kept in screenshots/."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from tests.browser import chromium  # noqa: F401
from tests.conftest import free_port
from tests.stack.conftest import MARKS, ROOT, Stack

SCREENSHOTS = ROOT / "screenshots"

pytestmark = MARKS


@dataclass(frozen=True)
class Demo:
    """A running demo of the digits that the stack has trained."""

    stack: Stack  # a project of its own
    url: str
    bundle: Path


@pytest.fixture(scope="module")
def demo(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    stack.compose("run", "--rm", "export")
    port = free_port()
    alone = stack.sibling("demo", tmp_path_factory.mktemp("demo"), DEMO_PORT=port)
    try:
        alone.compose("up", "--detach", "--wait", "demo")
        yield Demo(alone, f"http://127.0.0.1:{port}", stack.folder / "export" / "resnet50-digits-1")
    finally:
        alone.down()


@pytest.mark.parametrize(
    ("width", "scheme"), [(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")]
)
def test_a_digit_gets_its_class_and_a_text_file_a_sentence_and_nobody_else_is_asked(
    demo: Demo, browser: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    (tmp_path / "text.jpg").write_text("no picture at all\n")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(60_000)
    asked, errors = set[str](), list[str]()
    page.on("request", lambda request: asked.add(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(demo.url)
    page.get_by_text("resnet50-digits version 1").wait_for()
    file = page.locator("input[type=file]").first

    file.set_input_files(tmp_path / "text.jpg")
    page.get_by_text("This file is no picture that can be read").wait_for()
    page.screenshot(path=SCREENSHOTS / f"demo-{width}-{scheme}-no-picture.png", full_page=True)

    file.set_input_files(demo.bundle / "golden" / "3.jpeg")
    page.get_by_text(re.compile(r"\d+ ms: \d+ to read and resize")).wait_for()
    page.wait_for_timeout(500)  # until the bars have grown
    page.screenshot(path=SCREENSHOTS / f"demo-{width}-{scheme}.png", full_page=True)
    shown = page.locator("#top").inner_text().split()
    expected = json.loads((demo.bundle / "golden" / "expected.json").read_text())[3]["top5"]
    assert shown.count(expected[0]["class"]) == 2, "as the heading and as the first bar"
    assert len([word for word in shown if word.endswith("%")]) == 5
    assert page.get_by_text("This file is no picture").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width

    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {demo.url.split("/")[2]}
    assert errors == []
    page.close()


def test_an_example_is_one_click_and_a_file_that_is_too_large_is_refused(
    demo: Demo, browser: Any, tmp_path: Path
) -> None:
    (tmp_path / "large.png").write_bytes(bytes(10_500_000))
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.goto(demo.url)

    page.get_by_role("button", name=re.compile("example", re.IGNORECASE)).or_(
        page.locator(".gallery-item, .gallery button")
    ).first.click()
    page.get_by_text(re.compile(r"\d+ ms: \d+ to read and resize")).wait_for()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "huge.png")
    page.get_by_text("too many pixels; 25 million are allowed").wait_for()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "large.png")
    page.get_by_text("exceed the maximum allowed size of 10").wait_for()
    page.close()


def call(demo: Demo, data: dict[str, Any], host: str | None = None) -> str:
    """What the page's function answers to a program, as server-sent events."""
    headers = {"Host": host} if host else {}
    joined = requests.post(
        f"{demo.url}/gradio_api/call/classify", json={"data": [data]}, headers=headers, timeout=30
    )
    if joined.status_code != 200:
        return f"{joined.status_code}"
    event = joined.json()["event_id"]
    return requests.get(f"{demo.url}/gradio_api/call/classify/{event}", timeout=60).text


def test_a_program_gets_no_file_of_the_container_and_nothing_of_its_network(demo: Demo) -> None:
    kind = {"_type": "gradio.FileData"}
    assert "event: error" in call(demo, {"path": "/etc/passwd", "meta": kind})
    assert "event: error" in call(demo, {"path": "/app/export/resnet50-digits-1/labels.txt", "meta": kind})
    for address in ("http://127.0.0.1:7860/theme.css", "http://169.254.169.254/latest/meta-data/"):
        assert "event: error" in call(demo, {"path": address, "url": address, "meta": kind})
    for path in (
        "/etc/passwd",
        "/app/app.py",
        "/app/export/resnet50-digits-1/model.onnx",
        "../../etc/passwd",
    ):
        assert requests.get(f"{demo.url}/gradio_api/file={path}", timeout=30).status_code in (403, 404)


def test_the_demo_answers_to_its_own_host_names_only_and_on_loopback(demo: Demo) -> None:
    assert requests.get(demo.url, headers={"Host": "rebound.example"}, timeout=30).status_code == 400
    assert call(demo, {}, host="rebound.example") == "400"

    (container,) = demo.stack.containers().values()
    port = demo.url.rpartition(":")[2]
    assert container["HostConfig"]["PortBindings"] == {
        "7860/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]
    }
    assert container["Config"]["User"].partition(":")[0] not in ("", "0", "root")
    assert set(container["NetworkSettings"]["Networks"]) == {f"{demo.stack.project}_demo"}


def test_without_a_bundle_the_demo_says_how_to_make_one(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    empty = stack.sibling("empty", tmp_path, DEMO_PORT=free_port(), EXPORT_DIR=tmp_path / "none")
    try:
        said = empty.compose("run", "--rm", "demo", check=False)

        assert said.returncode == 2
        assert (
            "there is no exported bundle in export yet; make one with `docker compose run --rm export`"
            in said.stdout
        )
    finally:
        empty.down()
