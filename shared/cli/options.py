"""Options: values that typer does not check well enough, and groups that several commands share.

A group is a dataclass each of whose fields is an option.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from shared.rpc.access import Access

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
JsonLinesOption = Annotated[
    bool, typer.Option("--json", help="Print a JSON document a line on stdout.")
]
ServerOption = Annotated[
    str, typer.Option("--server", metavar="HOST:PORT", help="The server, as HOST:PORT.")
]
TlsOption = Annotated[bool, typer.Option("--tls", help="Use TLS, with the system's CAs.")]
TlsCaOption = Annotated[
    Path | None, typer.Option("--tls-ca", help="PEM file of the server's CA; implies --tls.")
]
TlsCertificateOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        help="PEM file of this client's certificate, for a server that wants one.",
    ),
]
TlsKeyOption = Annotated[
    Path | None, typer.Option("--tls-key", help="PEM file of the certificate's key.")
]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        help="File with a token; or FEATHERWIRE_TOKEN is one. Implies --tls.",
    ),
]

_SUFFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


def finite(
    meaning: str, *, minimum: float = -math.inf, maximum: float = math.inf
) -> Callable[[str], float]:
    """A parser for an option that takes a finite number, ``meaning`` in words.

    typer calls NaN too small and takes infinity; this reports what is wrong. A parser replaces the
    check of ``min`` as well, which the option keeps for its help.
    """

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise typer.BadParameter(f"{meaning} must be a finite number, not {text}")
        if value < minimum:
            raise typer.BadParameter(f"{meaning} must be at least {minimum:g}, not {text}")
        if value > maximum:
            raise typer.BadParameter(f"{meaning} must be at most {maximum:g}, not {text}")
        return value

    return parse


def whole(meaning: str, least: int, most: int) -> Callable[[str], int]:
    """A parser for an option that takes a whole number, ``meaning`` in words."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise typer.BadParameter(
                f"{meaning} is a whole number of {least} to {most}, not {text}"
            )
        return int(text)

    return parse


def bits_per_second(text: str) -> float:
    """``64k`` or ``1.5M`` as a number; raises typer.BadParameter."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([kMG]?)", text)
    value = float(found[1]) * _SUFFIXES[found[2]] if found else 0.0
    if not 0 < value < 1e15:
        raise typer.BadParameter(
            f"a bandwidth is a number of bits a second above 0, such as 64k or 1.5M, not {text}"
        )
    return value


def takes(group: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that gives a command, whose first parameter is a ``group``, its fields as
    options.

    group: a dataclass; its fields are annotated as a command's parameters are.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        first, *own = inspect.signature(command, eval_str=True).parameters.values()
        hints = get_type_hints(group, include_extras=True)
        shared = inspect.signature(group).parameters.values()

        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            made = group(**{option.name: values.pop(option.name) for option in shared})
            command(**{first.name: made}, **values)

        typed = [option.replace(annotation=hints[option.name]) for option in shared]
        options = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *typed)]
        wrapped.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {option.name: option.annotation for option in options}
        return wrapped

    return decorate


@dataclass(frozen=True)
class Connecting:
    """Which server is called, and how it is reached. Each field is an option."""

    server: ServerOption
    tls: TlsOption = False
    tls_ca: TlsCaOption = None
    tls_certificate: TlsCertificateOption = None
    tls_key: TlsKeyOption = None
    token_file: TokenOption = None

    def access(self) -> Access:
        """How to come in. Raises ``SessionError("bad_token_file")``."""
        quiet_grpc()
        from shared.rpc.access import Access, read_token

        token = read_token(self.token_file)
        return Access(self.tls, self.tls_ca, self.tls_certificate, self.tls_key, token)


def quiet_grpc() -> None:
    """Keep gRPC, once it is imported, from writing its own lines between a command's."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def split_names(text: str) -> tuple[str, ...]:
    """Names from ``a,b c``; ``none`` is no name at all."""
    names = tuple(text.replace(",", " ").split())
    return () if names == ("none",) else names
