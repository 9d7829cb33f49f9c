"""Where the lab keeps things.

``STATE`` belongs to one checkout and is thrown away with its hosts. ``CACHE`` is shared by all
checkouts of one user; everything in it is named by the hash of what it was made from, so it may be
deleted at any time.
"""

from __future__ import annotations

import os
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
STATE = Path(os.environ.get("MEMORYARK_LAB_STATE", REPO / ".lab"))
CACHE = Path(
    os.environ.get(
        "MEMORYARK_LAB_CACHE",
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "memoryark-lab",
    )
)
