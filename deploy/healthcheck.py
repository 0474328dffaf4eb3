"""Ask a server for its health, in the standard way (grpc.health.v1): exit code 0 when it serves.

python healthcheck.py HOST:PORT[/SERVICE] [CA.pem [NAME]]

With a CA it speaks TLS, plain text without. NAME: of the server's certificate, if not HOST.
No token is needed. It asks whether the server is ready to take frames; of the SERVICE
featherwire.live, whether it is alive: while its database is away it is that, and starting it again
would not help.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_health.v1 import health_pb2, health_pb2_grpc

from shared.errors import FeatherwireError
from shared.rpc.access import Access
from shared.rpc.channel import open_channel
from shared.rpc.errors import CallError, error_from_call

TIMEOUT_S = 4.0


def main(target: str, ca: str | None = None, name: str | None = None) -> int:
    """0 serving, 1 not serving or not reachable; says which on stderr."""
    target, _, service = target.partition("/")
    access = Access(ca=None if ca is None else Path(ca), name=name)
    try:
        with open_channel(target, access) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S
            )
    except CallError as error:
        print(f"{target}: {error_from_call(error, target).details['code']}", file=sys.stderr)
        return 1
    except FeatherwireError as error:
        print(f"{target}: {error.message}", file=sys.stderr)
        return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status), file=sys.stderr)
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3, 4):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
