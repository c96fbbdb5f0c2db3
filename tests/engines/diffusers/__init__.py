"""Makes `benchmarks/random_models.py` importable, as for the scripts in `benchmarks/`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
