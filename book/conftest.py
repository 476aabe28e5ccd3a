"""`pytest --nbval book/*.ipynb` runs the chapters again; this lets it compare their pictures too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from pictures import pytest_configure, pytest_itemcollected

__all__ = ["pytest_configure", "pytest_itemcollected"]
