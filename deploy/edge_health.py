"""Whether this container's client has a connection to a server: exit code 0 when it has.

python edge_health.py PORT

A client whose server is away goes on and spools: unhealthy says that nothing is delivered, not that
it should be started again.
"""

from __future__ import annotations

import sys
from pathlib import Path

ESTABLISHED = "01"
TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def main(port: str) -> int:
    """0 connected, 1 not; says which on stderr."""
    connected = any(
        fields[2].rpartition(":")[2] == f"{int(port):04X}" and fields[3] == ESTABLISHED
        for table in TABLES
        if table.exists()
        for fields in map(str.split, table.read_text().splitlines()[1:])
    )
    print("connected" if connected else f"no connection to port {port}", file=sys.stderr)
    return 0 if connected else 1


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
