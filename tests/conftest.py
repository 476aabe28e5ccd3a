"""What every test shares: modules beside the tests can be imported; pictures need no screen."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
sys.path.insert(0, str(Path(__file__).resolve().parent))
