# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Packs a Python package into one file that Python runs; the same package always makes the same bytes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

# The first moment that a zip file can name (APPNOTE.TXT, 4.4.6): when files were copied does not matter.
_MOMENT = (1980, 1, 1, 0, 0, 0)
_MAIN = "from {package}.__main__ import main\n\nraise SystemExit(main())\n"


def pack(package: Path) -> bytes:
    """Return the file for the modules of ``package``, which has a ``__main__`` with ``main``.

    Nothing is compressed, since compressors differ. Raises FileNotFoundError without ``__main__``.
    """
    modules = {f"{package.name}/{path.name}": path.read_text("utf-8") for path in package.glob("*.py")}
    if f"{package.name}/__main__.py" not in modules:
        raise FileNotFoundError(f"{package} has no __main__.py")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, text in sorted({**modules, "__main__.py": _MAIN.format(package=package.name)}.items()):
            archive.writestr(zipfile.ZipInfo(name, _MOMENT), text)
    return packed.getvalue()
