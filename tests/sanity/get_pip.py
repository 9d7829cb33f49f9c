"""Stands in for get-pip.py, which ansible-test would download from a server of its own.

Python carries a pip; with it the one that ansible-test asks for comes from the package index.
"""

from __future__ import annotations

import os
import subprocess
import sys

# ensurepip as a program: as a module it would turn off pip's configuration for what follows.
subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
wanted = [argument for argument in sys.argv[1:] if argument not in {"--no-setuptools", "--no-wheel"}]
os.execv(sys.executable, [sys.executable, "-m", "pip", "install", "--quiet", *wanted])  # noqa: S606 - no shell on purpose
