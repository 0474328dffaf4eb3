"""Exit codes that scripts can use, and errors printed once, clearly, on stderr."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from shared.cli.output import Told, print_error
from shared.errors import BundleError, FeatherwireError, ModelError, SessionError, StorageError
from shared.names import text_of


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
        "bad_tls_files",
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
def stop_on_error(*, as_json: bool, code: ExitCode | None = None) -> Iterator[None]:
    """End the command with the right exit code, or with ``code``, when an error ends its work.

    With ``as_json`` stdout gets one JSON document with the error; stderr gets a line either way.
    """
    told = False
    try:
        yield
        return
    except FeatherwireError as caught:
        error = caught
    except Told as caught:
        error, told = caught.cause, True
    except BrokenPipeError:
        raise  # who reads has gone, and is told nothing
    except (OSError, MemoryError) as caught:
        error = of_system(caught)
    print_error(error, as_json=as_json, told=told)
    raise typer.Exit(code_of(error) if code is None else code)


def of_system(error: OSError | MemoryError) -> FeatherwireError:
    """What the system refused, as an error with the reason ``io_error``."""
    text = in_words(error) if isinstance(error, OSError) else "not enough memory"
    return FeatherwireError("io_error", text)


def in_words(error: OSError) -> str:
    """The text of a system error, without its number."""
    name = error.filename
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    where = f": {text_of(name)}" if isinstance(name, str) and name else ""
    return f"{error.strerror or error}{where}"
