"""Types of what featherwire-cloud prints with ``--json``; see ``shared.cli.documents``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloud_server.cli.documents import files, servers
from shared.cli.documents import Files

__all__ = ["DOCUMENTS", "LINES"]

_FLEET = "featherwire-cloud fleet"

DOCUMENTS: Mapping[str, Any] = {
    "featherwire-cloud decode": Files[files.Decoded],
    "featherwire-cloud analyze": Files[files.Analysed],
    "featherwire-cloud models list": files.Models,
    "featherwire-cloud models fetch": files.Models,
    "featherwire-cloud models verify": files.Models,
    "featherwire-cloud results list": servers.Results,
    "featherwire-cloud results get": servers.Result,
    "featherwire-cloud results frame": servers.SavedFrame,
    "featherwire-cloud auth token create": (
        servers.ShownToken | servers.SavedToken | servers.NoToken
    ),
    "featherwire-cloud auth token list": servers.Tokens,
    "featherwire-cloud auth token revoke": servers.Token,
    "featherwire-cloud auth dev-ca": servers.Certificates,
    **{
        f"{_FLEET} {name}": servers.SentCommands
        for name in ("rate", "tasks", "bundle", "roi", "key-frame")
    },
    f"{_FLEET} refine": servers.SentCommands,
    f"{_FLEET} list": servers.Devices,
    f"{_FLEET} commands": servers.Commands,
    f"{_FLEET} cancel": servers.CancelledCommands,
    f"{_FLEET} forget": servers.ForgottenDevices,
    f"{_FLEET} audit": servers.Audit,
    "featherwire-cloud loadtest": servers.LoadTested,
}
LINES: Mapping[str, Any] = {
    "featherwire-cloud serve": servers.Ready,
    "featherwire-cloud results watch": servers.Result,
    f"{_FLEET} watch": servers.Device,
}
