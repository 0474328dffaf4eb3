"""Roles, and the calls that each may make. What is not in the table is refused."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from shared.proto.featherwire.v1 import bundles_pb2, fleet_pb2, ingest_pb2, results_pb2


class Role(enum.StrEnum):
    """What a token is for."""

    DEVICE = "device"
    """Sends frames, as the one device that the token names."""
    OPERATOR = "operator"
    """Commands devices, and reads everything."""
    CONSUMER = "consumer"
    """Reads results and frames, and sees devices."""


EVERYBODY = frozenset(Role)
_DEVICE = frozenset({Role.DEVICE})
_OPERATOR = frozenset({Role.OPERATOR})
_READERS = frozenset({Role.OPERATOR, Role.CONSUMER})

_INGEST = ingest_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name
_BUNDLES = bundles_pb2.DESCRIPTOR.services_by_name["BundleService"].full_name
_RESULTS = results_pb2.DESCRIPTOR.services_by_name["ResultService"].full_name
_FLEET = fleet_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name

ACCESS: Mapping[str, frozenset[Role]] = {
    f"/{_INGEST}/Connect": _DEVICE,
    f"/{_INGEST}/Analyze": _DEVICE,
    f"/{_BUNDLES}/ListBundles": EVERYBODY,
    f"/{_BUNDLES}/GetBundle": EVERYBODY,
    f"/{_RESULTS}/ListResults": _READERS,
    f"/{_RESULTS}/GetResult": _READERS,
    f"/{_RESULTS}/SubscribeResults": _READERS,
    f"/{_RESULTS}/GetFrame": _READERS,
    f"/{_FLEET}/ListDevices": _READERS,
    f"/{_FLEET}/WatchDevices": _READERS,
    f"/{_FLEET}/SendCommand": _OPERATOR,
    f"/{_FLEET}/ListCommands": _OPERATOR,
    f"/{_FLEET}/ListAudit": _OPERATOR,
    f"/{_REFLECTION}/ServerReflectionInfo": EVERYBODY,
}
"""By a call's full name: the roles that may make it."""

OPEN: frozenset[str] = frozenset({f"/{_HEALTH}/Check", f"/{_HEALTH}/Watch"})
"""Calls that need no token: whoever keeps a server running asks for its health."""
