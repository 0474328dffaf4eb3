"""Predicted frames of a spool for a server that cannot decode them: as key frames, without loss.

A server has no use for a predicted frame when it takes none, when it is another one than that which
took the frame before, or when it has lost that. The spool has the whole group, from which the
values are decoded and coded again as they are; what follows refers to the same values then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from codec.base import EdgeCodec, open_edge
from edge_client.session.groups import can_predict
from edge_client.spool import Spool
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2, types_pb2
from shared.wire.features import features_message, header_of, parse_features

MAX_LACKING = 1024


class KeyFrames:
    """What the server of a stream can decode, and key frames of what it cannot.

    Of the sender's thread, but for ``lacks``.
    """

    def __init__(self, spool: Spool) -> None:
        """spool: has the groups."""
        self._spool = spool
        self._codecs: dict[bytes, EdgeCodec[Any, Any]] = {}
        # By bundle: what was decoded last, and the frame and the session that it is of.
        self._values: dict[bytes, tuple[int, str, Any]] = {}
        self._lacking: dict[int, bool] = {}
        self._accepted = 0
        self._takes_predicted = self._needs_key_frame = False
        self._sent = range(0)

    def begin(self, *, accepted: int, takes_predicted: bool, needs_key_frame: bool) -> None:
        """A stream has begun. accepted: the frames up to this one are with its server.
        needs_key_frame: but it can decode nothing that refers to them."""
        self._accepted = accepted
        self._takes_predicted = takes_predicted
        self._needs_key_frame = needs_key_frame
        self._sent = range(0)

    def lacks(self, sequence: int, *, again: bool) -> None:
        """The server could not decode a frame, or will not get it. again: it has not taken it, and
        gets it once more."""
        self._lacking[sequence] = again
        if len(self._lacking) > MAX_LACKING:
            del self._lacking[min(self._lacking)]

    def sent(self, sequence: int) -> None:
        """A frame is on its way: those after it may refer to it on this stream."""
        self._lacking.pop(sequence, None)
        self._sent = range(self._sent.start if self._sent else sequence, sequence + 1)

    def for_server(
        self,
        message: ingest_pb2.Frame,
        version: int,
        at_hand: Callable[[bytes], Bundle | None],
    ) -> None:
        """Code what the server could not decode again, in place.

        version: of the format. at_hand: the bundle of a short id. Raises
        ``SessionError("reference_lost")`` where that is not possible any more.
        """
        for features in message.features:
            try:
                reference = header_of(features).reference
            except FeatherwireError:
                continue  # what is damaged is the server's to refuse
            if reference is None:
                continue
            before = message.sequence - reference.distance
            if not self._decodable(message.sequence, before, version):
                bundle = at_hand(features.bundle_short_id)
                if bundle is None:
                    what = f"its bundle {features.bundle_short_id.hex()} is not on this device"
                    raise _lost(message.sequence, what)
                found = self._alone(features, message.sequence, before, bundle, version)
                features.CopyFrom(features_message(found))

    def _decodable(self, sequence: int, reference: int, version: int) -> bool:
        if not self._takes_predicted or not can_predict(version):
            return False
        if reference in self._lacking or self._lacking.get(sequence, False):
            return False
        if reference in self._sent:
            return True
        return 0 < reference <= self._accepted and not self._needs_key_frame

    def _alone(
        self,
        features: types_pb2.Features,
        sequence: int,
        before: int,
        bundle: Bundle,
        version: int,
    ) -> Bitstream:
        """The features as a key frame. before: the frame to which they refer."""
        short_id, session = features.bundle_short_id, self._spool.session
        if short_id not in self._codecs:
            self._codecs[short_id] = open_edge(bundle)
        codec = self._codecs[short_id]
        at, of, values = self._values.get(short_id, (0, "", None))
        try:
            if (at, of) == (before, session):
                values = codec.decode(parse_features(features), reference=values)
            else:
                values = None
                for frame in self._spool.chain(sequence):
                    for one in frame.features:
                        if one.bundle_short_id == short_id:
                            values = codec.decode(parse_features(one), reference=values)
            self._values[short_id] = sequence, session, values
            return codec.key_frame(values, version=version)
        except FeatherwireError as error:
            raise _lost(sequence, error.message) from None


def _lost(sequence: int, why: str) -> SessionError:
    return SessionError(
        "reference_lost",
        f"frame {sequence} refers to one that the server does not have, and cannot be coded again "
        f"by itself: {why}",
    )
