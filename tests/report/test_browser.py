"""The page in a real browser: nothing wider than the screen, dark where the reader asks for it, no network, no errors.

Chromium is driven over its debugging pipe, which needs no further package.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image
from test_comparison_page import record as compared
from test_page import offline_record, record
from test_study_page import RECORD

from raypo.report.comparison import render_comparison
from raypo.report.page import render
from raypo.report.study import columns, render_study
from raypo.studies.catalogue import entry
from raypo.studies.drawings import forest
from raypo.studies.result import Drawing, Result, Row
from raypo.studies.write import told, write

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


class Browser:
    """A headless Chromium with one page open."""

    def __init__(self, place: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()  # the browser reads its file 3 and writes its file 4
        script = f'exec "$0" "$@" 3<&{ours[0]} 4>&{theirs[1]}'
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={place}"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, str(BROWSER), *flags],
            pass_fds=(ours[0], theirs[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._write, self._read = os.fdopen(ours[1], "wb"), os.fdopen(theirs[0], "rb")
        self._number, self.events = 0, list[dict[str, Any]]()
        self._session: str | None = None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and wait for its answer; events are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found
            self.events.append(answer)

    def open(self, page: Path) -> None:
        """Go to a file and wait until it is loaded."""
        self.events.clear()
        self("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._read.read(1)) != b"\0":
            assert byte, "the browser ended"
            text += byte
        found: dict[str, Any] = json.loads(text)
        return found

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(timeout=20)
        self._write.close()
        self._read.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


def write_claim(folder: Path, text: str) -> Path:
    """The page of a test of a paper's claim, with two figures and the text wherever one may be long."""
    rows = [
        Row(f"{name} {text}", "gain", 8, 40, 0.02 * at, 0.01 * at, 0.03 * at, 0.01, 0.02)
        for at, name in enumerate("abc")
    ]
    drawn = [Drawing(name, text, forest(rows[:2], "gain", matters=0.02)) for name in ("one", "other")]
    found = Result(rows, "holds", text, drawn, {"kl": 0.5})
    how = {"command": f"raypo study prior {text}", "environment": {}, "seconds": 1.0, "seed": 0, "quick": True}
    return write(folder / "claim", told("prior", entry("prior"), found, how), found)[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "mobile"), [(1280, False), (360, True)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["run", "given", "study", "comparison", "claim"])
def test_a_page_fits_its_screen_and_the_readers_scheme(
    browser: Browser, tmp_path: Path, width: int, mobile: bool, scheme: str, kind: str
) -> None:
    """The corner pixel is the paper: white in light, darker than mid-grey in dark."""
    page = tmp_path / "report.html"
    text = "a long word " + "x" * 300
    lost = [row | {"error": text} if row["error"] else row for row in RECORD.trials]
    pages = {
        "run": lambda: render(record(text), confidence=0.95, untrained=["other"]),
        "given": lambda: render(offline_record(text), confidence=0.95, untrained=[]),
        "study": lambda: render_study(dataclasses.replace(RECORD, headline=[text], warnings=[text], trials=lost)),
        "comparison": lambda: render_comparison(compared(text), confidence=0.95),
    }
    if kind == "claim":
        page = write_claim(tmp_path, text)
    else:
        page.write_text(pages[kind]())
    browser("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=mobile)
    browser("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(page)
    size = browser("Page.getLayoutMetrics")["cssContentSize"]
    assert size["width"] <= width
    assert size["height"] > 900
    picture = base64.b64decode(browser("Page.captureScreenshot", format="png")["data"])
    corner = image.imread(io.BytesIO(picture))[5, 5, :3].mean()
    assert corner == 1.0 if scheme == "light" else corner < 0.3
    asked = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("file:")] == []
    assert [e for e in browser.events if e.get("method") == "Log.entryAdded"] == []


@pytest.mark.slow
def test_a_studys_table_sorts_without_a_script(browser: Browser, tmp_path: Path) -> None:
    """By reward at first: trials 2, 3, 1 and then 4, which has none; by trial, greatest last, once that is chosen."""
    page = tmp_path / "study.html"
    page.write_text(render_study(RECORD))
    browser.open(page)
    rows = """[...document.querySelectorAll("tbody tr")]
      .sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)
      .map(row => row.cells[0].textContent).join(" ")"""

    def shown() -> str:
        found: str = browser("Runtime.evaluate", expression=rows)["result"]["value"]
        return found

    assert shown() == "2 3 1 4"
    arrow = f"label[for=up{columns(RECORD).index('trial')}]"
    browser("Runtime.evaluate", expression=f"document.querySelector('{arrow}').click()")
    assert shown() == "1 2 3 4"
