# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The kernel's tables of TCP sockets: /proc/net/tcp and tcp6, of the host or of a process's own network."""

from __future__ import annotations

TABLES = ("tcp", "tcp6")
# States as in include/net/tcp_states.h of Linux.
ESTABLISHED = "01"
LISTENING = "0A"


def local_ports(table: str, state: str) -> dict[int, str]:
    """Return the local ports of the sockets in a ``state``, each with the inode of one of them."""
    rows = (line.split() for line in table.splitlines()[1:])
    return {int(row[1].rpartition(":")[2], 16): row[9] for row in rows if row[3] == state}
