"""`serve --console`: the console as a process of its own beside the server, kept running.

Its pages and pictures never hold up ingest: it shares nothing with the server but the API. When it
dies it is started again; when the server stops, or dies, it ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog
from cryptography import x509

from cloud_server.serve.settings import ServerSettings, default_data_folder
from shared.errors import FeatherwireError
from shared.rpc.access import is_loopback

READY_S = 60.0
STOPS_S = 5.0
FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 30.0


def check_console(settings: ServerSettings) -> None:
    """Raise ``FeatherwireError`` for a console that cannot be had beside such a server."""
    if settings.console is None:
        return
    if settings.tls_client_ca is not None:
        raise FeatherwireError(
            "invalid_settings",
            "a server that wants its clients' certificates cannot make one for its console: run "
            "`featherwire-cloud console --tls-cert ...` beside it",
        )
    plain = settings.tls_certificate is None
    if plain and not settings.insecure_anywhere and not is_loopback(settings.console):
        raise FeatherwireError(
            "insecure_listen",
            f"the console on {settings.console} would be served without TLS: give --tls-cert and "
            "--tls-key, or listen on 127.0.0.1",
        )


def console_arguments(settings: ServerSettings, address: str) -> list[str]:
    """Of `featherwire-cloud console`, for a server that listens on ``address``.

    The server's certificate is the one that the console trusts, whoever has signed it, and the one
    that it shows to browsers.
    """
    assert settings.console is not None
    host, _, port = address.rpartition(":")
    reached = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    data = settings.data or default_data_folder()
    arguments = [
        *("--server", f"{reached}:{port}", "--listen", settings.console, "--data", str(data)),
        *("--log-format", settings.log_format, "--log-level", settings.log_level),
        "--until-stdin-ends",
    ]
    if settings.tls_certificate is not None:
        certificate = str(settings.tls_certificate)
        arguments += ["--tls-ca", certificate, "--tls-name", _name_in(settings.tls_certificate)]
        arguments += ["--https-cert", certificate, "--https-key", str(settings.tls_key)]
    if settings.insecure_anywhere:
        arguments.append("--insecure-anywhere")
    if settings.console_root_path:
        arguments += ["--root-path", settings.console_root_path]
    return arguments


class ConsoleProcess:
    """The child; ``start`` waits until it listens, ``stop`` until it is gone."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Returns where browsers come. Raises ``FeatherwireError("cannot_listen")``."""
        url = await self._spawn()
        if url is None:
            await self._end()
            raise FeatherwireError(
                "cannot_listen", "the console did not start; its own error is above"
            )
        # A port that was free is asked for again, so that browsers find it where it was.
        arguments = list(self._arguments)
        at = arguments.index("--listen") + 1
        arguments[at] = f"{arguments[at].rpartition(':')[0]}:{url.rpartition(':')[2]}"
        self._arguments = arguments
        self._keeping = asyncio.create_task(self._keep())
        return url

    async def stop(self) -> None:
        """End the child."""
        if self._keeping is not None:
            self._keeping.cancel()
        await self._end()

    async def _keep(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            assert self._process is not None
            status = await self._process.wait()
            structlog.get_logger().error("console_died", status=status, again_s=pause_s)
            await asyncio.sleep(pause_s)
            came = await self._spawn()
            pause_s = FIRST_PAUSE_S if came is not None else min(2 * pause_s, MAX_PAUSE_S)

    async def _spawn(self) -> str | None:
        """Where it listens; None when it does not."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cloud_server.console",
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the server's: it ends this one when it has drained
        )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(READY_S):
                line = await self._process.stdout.readline()
            return str(json.loads(line)["console"])
        except (TimeoutError, ValueError, KeyError):
            return None

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOPS_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _name_in(certificate: Path) -> str:
    """A name that the certificate is for. Raises ``FeatherwireError("invalid_settings")``."""
    try:
        parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns = names.get_values_for_type(x509.DNSName)
        addresses = [str(one) for one in names.get_values_for_type(x509.IPAddress)]
        return [*dns, *addresses][0].replace("*.", "console.")
    except (OSError, ValueError, IndexError, x509.ExtensionNotFound) as error:
        raise FeatherwireError(
            "invalid_settings", f"{certificate}: the console finds no name in it: {error}"
        ) from None
