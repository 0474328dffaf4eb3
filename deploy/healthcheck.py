"""Ask a server for its health, in the standard way (grpc.health.v1): exit code 0 when it serves.

python healthcheck.py HOST:PORT [CA.pem [NAME]]

With a CA it speaks TLS, plain text without. NAME: of the server's certificate, if not HOST.
No token is needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 4.0


def main(target: str, ca: str | None = None, name: str | None = None) -> int:
    """0 serving, 1 not serving or not reachable; says which on stderr."""
    with _channel(target, ca, name) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S
            )
        except grpc.RpcError as error:
            print(f"{target}: {error.code().name}", file=sys.stderr)
            return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status), file=sys.stderr)
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def _channel(target: str, ca: str | None, name: str | None) -> grpc.Channel:
    if ca is None:
        return grpc.insecure_channel(target)
    options = [] if name is None else [("grpc.ssl_target_name_override", name)]
    credentials = grpc.ssl_channel_credentials(Path(ca).read_bytes())
    return grpc.secure_channel(target, credentials, options=options)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3, 4):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
