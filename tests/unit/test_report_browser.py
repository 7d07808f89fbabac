"""The report in a real browser, without a network: what a reader on a phone or with a keyboard only meets."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_cases import child, hostile, run_folder
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from synth.report.cells import with_cells
from synth.report.folder import read_folder
from synth.report.page import render

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PHONE, DESK = (360, 740), (1280, 900)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no chromium and chromedriver here; Debian has both: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with descendants, and the same with hostile texts, as files."""
    real = read_folder(run_folder(tmp_path_factory.mktemp("runs")))
    first = real.kernels[0]
    run = replace(real, kernels=(*real.kernels, child(first, "faster", 5e-4), child(first, "slower", 9e-3)))
    folder = tmp_path_factory.mktemp("pages")
    for name, view in (("run", run), ("hostile", hostile(run))):
        (folder / f"{name}.html").write_text(render(with_cells(view)))
    return {path.stem: path for path in folder.iterdir()}


def show(browser: webdriver.Chrome, page: Path, size: tuple[int, int] = DESK, scheme: str = "light") -> None:
    """Load a page afresh."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get("about:blank")
    browser.get(page.as_uri())


def run(browser: webdriver.Chrome, script: str, *arguments: Any) -> Any:
    return browser.execute_script(f"return {script}", *arguments)


def press(browser: webdriver.Chrome, key: str) -> WebElement:
    """One key to whatever has the focus; the element that has it then."""
    webdriver.ActionChains(browser).send_keys(key).perform()
    return browser.switch_to.active_element


def tab_to(browser: webdriver.Chrome, selector: str, most: int = 60) -> WebElement:
    """By Tab alone to an element that matches."""
    for _ in range(most):
        focused = press(browser, Keys.TAB)
        if run(browser, "arguments[0].matches(arguments[1])", focused, selector):
            return focused
    raise AssertionError(f"no {selector} within {most} presses of Tab")


@pytest.mark.parametrize("page", ["run", "hostile"])
def test_it_loads_alone_and_says_nothing_on_the_console(
    browser: webdriver.Chrome, pages: dict[str, Path], page: str
) -> None:
    show(browser, pages[page])
    title = browser.title
    for detail in browser.find_elements(By.CSS_SELECTOR, "details[data-pack]")[:2]:
        run(browser, "arguments[0].closest('.sheet').open = true", detail)
        run(browser, "arguments[0].open = true", detail)
    WebDriverWait(browser, 10).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".item pre"))
    assert browser.get_log("browser") == []
    asked = [entry["message"] for entry in browser.get_log("performance") if 'requestWillBeSent"' in entry["message"]]
    assert [m for m in asked if "about:blank" not in m and pages[page].as_uri() not in m] == []
    assert run(browser, "performance.getEntriesByType('resource').length") == 0
    assert browser.title == title != "broken"
    assert run(browser, "document.images.length") == 0


def test_its_policy_stops_a_script_that_got_in(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    show(browser, pages["run"])
    attack = "const s = document.createElement('script'); s.textContent = 'document.title = \"broken\"'; "
    attack += (
        "document.body.append(s); const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i)"
    )
    browser.execute_script(attack)
    assert browser.title != "broken"
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


@pytest.mark.parametrize("page", ["run", "hostile"])
def test_a_phone_shows_it_without_scrolling_sideways(
    browser: webdriver.Chrome, pages: dict[str, Path], page: str
) -> None:
    show(browser, pages[page], PHONE)
    run(browser, "document.querySelectorAll('details').forEach(d => d.open = true)")
    width = run(browser, "[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width == [360, 360]


def test_a_heading_sorts_by_keyboard(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    show(browser, pages["run"])
    names = "[...document.querySelectorAll('.sorts tbody tr th')].map(th => th.textContent)"
    assert run(browser, names)[0] == "faster"
    button = tab_to(browser, ".sorts th:nth-child(3) button")  # the time at the first shape
    heading = button.find_element(By.XPATH, "..")
    press(browser, Keys.ENTER)
    assert heading.get_attribute("aria-sort") == "ascending" and run(browser, names)[0] == "faster"
    press(browser, Keys.ENTER)
    assert heading.get_attribute("aria-sort") == "descending" and run(browser, names)[0] == "slower"
    assert run(browser, "document.querySelectorAll('.sorts [aria-sort=none]').length") > 3


def test_a_proof_opens_by_keyboard(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    show(browser, pages["run"])
    run(browser, "document.querySelector('#candidates').scrollIntoView()")
    summary = browser.find_element(By.CSS_SELECTOR, "#c-0 > summary")
    run(browser, "arguments[0].focus()", summary)
    press(browser, Keys.ENTER)
    assert run(browser, "document.querySelector('#c-0').open")
    tab_to(browser, "#c-0 details[data-pack] > summary")
    press(browser, Keys.ENTER)
    items = "#c-0 details[data-pack][open] .item > summary"
    WebDriverWait(browser, 10).until(lambda b: len(b.find_elements(By.CSS_SELECTOR, items)) > 1)
    item = browser.find_elements(By.CSS_SELECTOR, items)[-1]
    run(browser, "arguments[0].focus()", item)
    press(browser, Keys.ENTER)
    shown = run(browser, "arguments[0].parentElement.querySelector('code').textContent", item)
    assert "(assert" in shown and "(check-sat)" in shown


def test_the_skip_link_is_first_and_seen_when_focused(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    show(browser, pages["run"])
    link = press(browser, Keys.TAB)
    assert link.get_attribute("class") == "skip" and link.rect["x"] >= 0
    press(browser, Keys.ENTER)
    assert run(browser, "document.activeElement.id") == "main"


def test_a_link_opens_the_kernel_it_leads_to(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    show(browser, pages["run"])
    link = browser.find_element(By.CSS_SELECTOR, "#lineage svg a")
    target = str(run(browser, "arguments[0].getAttribute('href')", link))
    run(browser, "arguments[0].focus()", link)
    press(browser, Keys.ENTER)
    WebDriverWait(browser, 10).until(lambda b: run(b, "document.querySelector(arguments[0]).open", target))


def test_every_picture_has_a_name_and_every_control_too(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    show(browser, pages["run"])
    nameless = """[...document.querySelectorAll('svg')].filter(s => s.getAttribute('aria-hidden') !== 'true'
        && !(s.getAttribute('aria-label') && s.querySelector(':scope > title').textContent)).length"""
    assert run(browser, nameless) == 0
    assert run(browser, "document.querySelectorAll('svg[role=img]').length") > 10
    assert (
        run(browser, "[...document.querySelectorAll('button, a, summary')].filter(e => !e.textContent.trim()).length")
        == 0
    )
    scrolls = """[...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1
        && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).length"""
    assert run(browser, scrolls) == 0


def test_the_picture_marks_the_cell_where_the_counterexample_is(
    browser: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    show(browser, pages["run"])
    run(browser, "document.querySelectorAll('#controls .sheet').forEach(d => d.open = true)")
    drawings = browser.find_elements(By.CSS_SELECTOR, ".drawing svg")
    assert len(drawings) >= 5
    for drawing in drawings:
        cell = drawing.find_element(By.CSS_SELECTOR, "rect.cell")
        tensor = drawing.find_element(By.CSS_SELECTOR, "rect.tensor")
        assert cell.rect["width"] >= 3 and "marked" in str(drawing.get_attribute("aria-label"))
        outside = drawing.find_elements(By.CSS_SELECTOR, "path.beyond")
        middle = [cell.rect[a] + cell.rect[b] / 2 for a, b in (("x", "width"), ("y", "height"))]
        within = all(
            tensor.rect[a] <= m <= tensor.rect[a] + tensor.rect[b]
            for m, (a, b) in zip(middle, (("x", "width"), ("y", "height")), strict=True)
        )
        assert within != bool(outside)  # inside the tensor, unless the access itself is outside


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_page(browser: webdriver.Chrome, pages: dict[str, Path], scheme: str) -> None:
    """WCAG 2 contrast of 4.5 for text and for the verdicts' colours, in both schemes."""
    show(browser, pages["run"], DESK, scheme)
    contrast = """(() => {
      const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
      const light = c => c.match(/\\d+/g).slice(0, 3).map(linear)
        .reduce((sum, v, k) => sum + v * [.2126, .7152, .0722][k], 0);
      const paper = light(getComputedStyle(document.body).backgroundColor);
      return ['body', '.quiet', '.mark.proved', '.mark.refuted', '.mark.unproved', 'main a'].map(s => {
        const ink = light(getComputedStyle(document.querySelector(s)).color);
        return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05); });
    })()"""
    assert min(run(browser, contrast)) >= 4.5
