"""The plan against a table of published measurements: PYTHONPATH=tests python -m validation FILE"""

import sys
from pathlib import Path

from onecard import api
from onecard.errors import OneCardError

FILE = Path(__file__).with_name("measurements.csv")

try:
    print(api.plan_bench(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE).text)
except OneCardError as fault:
    sys.exit(str(fault))
