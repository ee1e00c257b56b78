"""Where tests find the checkout, their own support files, and data that is not committed."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["DATA", "DATA_VARIABLE", "ROOT", "SUPPORT"]

SUPPORT = Path(__file__).resolve().parent
ROOT = SUPPORT.parents[1]

DATA_VARIABLE = "ZTCIR_TEST_DATA"
"""Names the folder of ``fashion-products/`` and ``cir-annotations/``; see CONTRIBUTING.md."""

DATA = Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None
