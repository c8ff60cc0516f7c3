"""Import first in a notebook: paths and imports start at the project's folder, wherever the notebook was opened."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.chdir(ROOT)
sys.path.insert(0, str(ROOT))
