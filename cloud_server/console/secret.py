"""The key of the console's cookies: a file that only its user reads, made once."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.fernet import Fernet

from shared.errors import StorageError

FILE = "console.secret"


def load_or_make(folder: Path) -> Fernet:
    """The key in ``folder``; consoles that share it take each other's cookies.

    Raises ``StorageError("unavailable")``.
    """
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # Under another name first: one that reads meanwhile must not find half a key.
            draft = path.with_name(f"{FILE}.{os.getpid()}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(Fernet.generate_key())
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink(missing_ok=True)
        return Fernet(path.read_bytes().strip())
    except OSError as error:
        raise StorageError("unavailable", f"{path} cannot be used: {error.strerror}") from None
    except ValueError:
        raise StorageError(
            "unavailable", f"{path} holds no key; remove it, and users log in again"
        ) from None
