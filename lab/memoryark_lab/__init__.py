"""Disposable test hosts."""

import sys

from memoryark_lab.paths import REPO

# What the lab and the product both know, as how images are built, is in the collection.
if str(REPO / "collections") not in sys.path:
    sys.path.append(str(REPO / "collections"))
