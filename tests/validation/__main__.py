"""The plan against a table of published measurements: PYTHONPATH=tests python -m validation FILE"""

import sys
from pathlib import Path

from validation import truth

print(truth.bench(Path(sys.argv[1])).text)
