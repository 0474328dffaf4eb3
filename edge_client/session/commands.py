"""The server's commands on one stream: layers that it asks for, and settings of the device."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from edge_client.session.pending import (
    Commanded,
    Key,
    Parked,
    Pending,
    Reply,
    key_of,
    refine_request,
    resolve,
)
from edge_client.session.refinement_store import RefinementStore
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2
from shared.wire.commands import RefineCommand, Setting, command_reply, parse_command

TakeSetting = Callable[[Setting, Callable[[FeatherwireError | None], None]], None]
"""Carries out a command about the device, and calls its second argument once, then or later: with
None, or with why it could not. Raises FeatherwireError instead when it cannot begin."""


class Sender(Protocol):
    """What commands need of their connection; its lock is held."""

    @property
    def has_credit(self) -> bool: ...

    def awaits(self, sequence: int) -> bool: ...

    def post(self, request: ingest_pb2.ConnectRequest, key: Key, pending: Pending) -> None: ...

    def put(self, request: ingest_pb2.ConnectRequest) -> None: ...

    def raise_unless_open(self) -> None: ...

    def check_size(self, request: ingest_pb2.ConnectRequest) -> None: ...


class Commands:
    """Commands that came, until they are answered."""

    def __init__(
        self,
        sender: Sender,
        lock: threading.Condition,
        store: RefinementStore,
        take_setting: TakeSetting | None,
    ) -> None:
        """lock: the sender's. take_setting: None refuses commands about the device."""
        self._sender = sender
        self._lock = lock
        self._store = store
        self._take_setting = take_setting
        # Layers that wait for credit.
        self._commanded: deque[Commanded] = deque()
        # By sequence: what will come of a command, until the frame's own result has come.
        self._refinements: dict[int, Future[Reply]] = {}
        # By sequence: commands about frames of which more is being made.
        self._parked: dict[int, Parked] = {}

    def take(self, command: fleet_pb2.Command) -> None:
        """Answer, or keep the command until what it asks for has been made."""
        try:
            wanted = parse_command(command)
            if not isinstance(wanted, RefineCommand):
                self._set(command.command_id, wanted)
                return
        except FeatherwireError as error:
            self._sender.put(command_reply(command.command_id, error))
            return
        asked = Parked(command.command_id, wanted, Future())
        with self._lock:
            if self._sender.awaits(wanted.sequence):
                self._refinements.setdefault(wanted.sequence, asked.reply)
            if wanted.sequence not in self._parked and self._store.unfinished(wanted.sequence):
                self._parked[wanted.sequence] = asked
                return
        self._answer(asked)

    def finished(self, sequence: int) -> None:
        """All parts of a frame are kept now."""
        with self._lock:
            asked = self._parked.pop(sequence, None)
        if asked is not None:
            self._answer(asked)

    def refinement_of(self, sequence: int) -> Future[Reply] | None:
        """What will come of a command about this frame, told once. The lock is held."""
        return self._refinements.pop(sequence, None)

    def send(self) -> None:
        """Send what the server has asked for, as far as there is credit. The lock is held."""
        while self._commanded and self._sender.has_credit:
            one = self._commanded.popleft()
            self._sender.post(one.request, key_of(one.refinement), one.pending)
            self._sender.put(command_reply(one.command_id))

    def abandon(self) -> list[Future[Reply]]:
        """Forget what waits for credit; returns who awaits it. The lock is held."""
        futures = [one.pending.future for one in self._commanded]
        self._commanded.clear()
        return futures

    def _set(self, command_id: str, wanted: Setting) -> None:
        if self._take_setting is None:
            raise SessionError("unsupported_command", "this client takes no settings")

        def done(error: FeatherwireError | None) -> None:
            # On a stream that has ended meanwhile nobody hears it: the command comes again.
            self._sender.put(command_reply(command_id, error))

        self._take_setting(wanted, done)

    def _answer(self, asked: Parked) -> None:
        """Queue the layers that are asked for, or say why not."""
        wanted = asked.wanted
        with self._lock:
            try:
                self._sender.raise_unless_open()
                refinement = self._store.refinement(wanted.sequence, wanted.bundle_id, wanted.state)
                request = refine_request(refinement)
                self._sender.check_size(request)
            except FeatherwireError as error:
                self._sender.put(command_reply(asked.command_id, error))
                resolve(asked.reply, error)
                return
            self._store.sent(refinement)
            pending = Pending(refinement.payload_bytes, refines=True, future=asked.reply)
            self._commanded.append(Commanded(asked.command_id, refinement, request, pending))
            self.send()
