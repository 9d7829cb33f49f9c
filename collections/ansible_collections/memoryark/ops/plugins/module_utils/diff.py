# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What ``--diff`` shows."""

from __future__ import annotations


def difference(name: str, before: str, after: str, states: tuple[str, str] = ("", "")) -> dict[str, str]:
    """Return one entry of a module's diff: the texts of ``name`` before and after.

    ``states`` are words on how it is before and after, beside its text.
    """
    headers = [f"{name} ({state})" if state else name for state in states]
    return {"before_header": headers[0], "after_header": headers[1], "before": before, "after": after}
