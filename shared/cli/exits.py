"""Exit codes that scripts can use, and errors printed once, clearly, on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from shared.errors import BundleError, FeatherwireError, ModelError, SessionError, StorageError


class ExitCode(IntEnum):
    """What a command's exit status means."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    MISSING = 3
    UNREACHABLE = 4
    INTERRUPTED = 130  # typer's own, on Ctrl-C


_USAGE_REASONS = frozenset(
    {
        "bad_address",
        "bad_device",
        "bad_option",
        "bad_region",
        "bad_recipe",
        "bad_secret",
        "bad_sink",
        "bad_source",
        "bad_target",
        "no_int8",
        "no_psnr_model",
        "bad_token_file",
        "insecure_listen",
        "no_target",
        "no_tokens",
        "other_device",
        "regions_unsupported",
        "tls_missing",
        "two_targets",
        "unknown_backend",
        "unknown_model",
        "unknown_scheme",
        "unknown_sink",
        "unknown_state",
        "unknown_task",
        "unknown_token",
    }
)


def code_of(error: FeatherwireError) -> ExitCode:
    """The exit code for an error that ends a whole command."""
    if error.reason in _USAGE_REASONS:
        return ExitCode.USAGE
    missing = error.reason == "missing_extra"
    if missing or isinstance(error, BundleError | ModelError | StorageError):
        return ExitCode.MISSING
    if isinstance(error, SessionError) and error.reason != "not_found":
        return ExitCode.UNREACHABLE
    return ExitCode.SOME_FAILED


@contextmanager
def stop_on_error(*, as_json: bool) -> Iterator[None]:
    """End the command with the right exit code when a FeatherwireError ends its work.

    With ``as_json`` stdout gets one JSON document with the error; stderr gets a line either way.
    """
    try:
        yield
    except FeatherwireError as error:
        if as_json:
            json.dump({"error": error.to_dict()}, sys.stdout)
            sys.stdout.write("\n")
        sys.stderr.write(f"error: {error.message} [{error.reason}]\n")
        raise typer.Exit(code_of(error)) from None
