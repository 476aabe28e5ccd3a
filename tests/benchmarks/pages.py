"""How soon a page of the built book can be read and used, in a browser without a network, from the disk.

    python tests/benchmarks/pages.py                      # the front page and the chapters, after `make book`
    python tests/benchmarks/pages.py index --slower 4     # one page, on a processor a quarter as fast

Of each page the median over the visits, in milliseconds since the click: the first ink; when it can be used, which is the end of
the last task longer than 50 ms before two quiet seconds, or of reading the page if there was none; and its formulas drawn. Each
visit has a browser's empty cache; a disk is no network, so what an address adds comes on top. Only a quiet machine gives numbers
worth keeping.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

HTML = Path(__file__).resolve().parents[2] / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WATCH = """
window.longTasks = [];
new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((task) => task.startTime + task.duration)))
  .observe({ type: "longtask", buffered: true });
addEventListener("load", async () => { await window.MathJax?.startup?.promise; window.drawn = performance.now(); });
"""
ASK = """() => {
  const ink = performance.getEntriesByName("first-contentful-paint")[0].startTime;
  const [page] = performance.getEntriesByType("navigation");
  return [ink, Math.max(ink, page.domContentLoadedEventEnd, ...longTasks), drawn];
}"""


def visit(browser: Browser, page: Path, slower: float) -> list[float]:
    """Milliseconds to the first ink, to use, and to the last formula, of one visit in a context of its own."""
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 800})
    tab = context.new_page()
    context.new_cdp_session(tab).send("Emulation.setCPUThrottlingRate", {"rate": slower})
    tab.add_init_script(WATCH)
    tab.goto(page.as_uri())
    tab.wait_for_function("window.drawn")
    tab.wait_for_function("performance.now() > 2000 + Math.max(drawn, ...longTasks)")
    found: list[float] = tab.evaluate(ASK)
    context.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "pages", nargs="*", help="names below _build/html; by default the front page and all chapters"
    )
    parser.add_argument("--visits", type=int, default=5)
    parser.add_argument("--slower", type=float, default=1, help="how many times slower than this processor")
    options = parser.parse_args()
    named = [HTML / f"{name}.html" for name in options.pages]
    pages = named or [HTML / "index.html", *sorted(HTML.glob("book/*.html"))]
    if missing := [page for page in pages if not page.is_file()]:
        parser.error(f"{missing[0]} is not there; run `make book` first")
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        parser.error(f"no browser here (looked for {', '.join(BROWSERS)}); install chromium")
    print(f"{'ms, median of ' + str(options.visits):34} {'first ink':>10} {'usable':>8} {'formulas':>9}")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        for page in pages:
            visits = [visit(browser, page, options.slower) for _ in range(options.visits)]
            ink, usable, drawn = (statistics.median(times) for times in zip(*visits, strict=True))
            print(
                f"{page.relative_to(HTML).with_suffix('')!s:34} {ink:10.0f} {usable:8.0f} {drawn:9.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
