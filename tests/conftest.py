"""What every test shares: modules beside the tests can be imported; pictures need no screen; a browser has no network."""

import os
import shutil
import sys
from pathlib import Path

import matplotlib
import pytest

matplotlib.use("agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two processes share two cores
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("tests", "course", "book/_ext", "book/experiments")]
# importing it, as a search for doctests does, would shake every network of the tests
collect_ignore = ["shaken"]


def pytest_terminal_summary(terminalreporter):
    """Keep why tests were skipped, one reason a line, for the last line of `make test`."""
    if file := os.environ.get("SKIPPED"):
        reports = terminalreporter.stats.get("skipped", [])
        with Path(file).open("a", encoding="utf-8") as lines:
            lines.writelines(f"{report.longrepr[2].removeprefix('Skipped: ')}\n" for report in reports)


@pytest.fixture(scope="module")
def one_thread():
    """For networks so small that two threads would wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def browser():
    """A Chromium without a window; where it or playwright is missing the test is skipped, with the reason."""
    why = "playwright is not installed: make test installs it"
    playwright = pytest.importorskip("playwright.sync_api", reason=why)
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip(f"no browser on this machine (looked for {', '.join(names)})")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])


@pytest.fixture
def open_page(browser):
    """Opens a file with the network shut; what any page complained about or asked the network for fails the test."""
    pages, complaints = [], []
    hear = complaints.append

    def open_page(file, query="", *, width=1400, height=900, **options):
        size = {"width": width, "height": height}
        page = browser.new_page(offline=True, reduced_motion="reduce", viewport=size, **options)
        pages.append(page)
        page.on("console", lambda said: hear(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: hear(str(error)))
        page.on("request", lambda asked: hear(asked.url) if asked.url.startswith("http") else None)
        page.on("requestfailed", lambda asked: hear(f"failed: {asked.url}"))
        page.goto(file.as_uri() + query)
        return page

    yield open_page
    heard = [*complaints]  # closing may cut a request short
    for page in pages:
        page.close()
    assert heard == []


HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Figure</title>
<meta name="viewport" content="width=device-width">"""


@pytest.fixture
def show(open_page, tmp_path):
    """Opens a file that holds the given HTML."""

    def show(*bodies, width=760, **options):
        file = tmp_path / "page.html"
        file.write_text(f"{HEAD}<main><h1>Figure</h1>{''.join(bodies)}</main>", encoding="utf-8")
        return open_page(file, width=width, **options)

    return show


@pytest.fixture(scope="module")
def front(browser):
    """`front(figure, expression, **given)`: an expression's value in what is `given` and what the figure's front end defines."""
    from mamlkit.page.widgets.figure import source

    page = browser.new_page()

    def front(figure, expression, **given):
        script = figure().front + source("stand_in.js")
        return page.evaluate(f"(given) => {{ {script}\nreturn {expression}; }}", given)

    return front
