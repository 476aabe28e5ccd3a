"""What every test shares: modules beside the tests can be imported; pictures need no screen."""

import os
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two processes share two cores
sys.path.insert(0, str(Path(__file__).resolve().parent))


def pytest_terminal_summary(terminalreporter):
    """Keep why tests were skipped, one reason a line, for the last line of `make test`."""
    if file := os.environ.get("SKIPPED"):
        reports = terminalreporter.stats.get("skipped", [])
        with Path(file).open("a", encoding="utf-8") as lines:
            lines.writelines(f"{report.longrepr[2].removeprefix('Skipped: ')}\n" for report in reports)
