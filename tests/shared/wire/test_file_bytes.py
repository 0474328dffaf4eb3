"""The bytes that a frame's message stands for are those of its files."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.encoder import EdgeEncoder
from shared.wire.features import features_message, file_bytes


@pytest.mark.parametrize("spared", [0, 5])
def test_whole_and_partial_layers_are_counted_with_their_framing(
    encoder: EdgeEncoder, image: NDArray[np.uint8], spared: int
) -> None:
    whole = encoder.encode(image)
    bitstream = encoder.encode(image, max_bytes=whole.file_bytes - spared)
    assert (bitstream.partial is None) == (spared == 0)
    assert file_bytes(features_message(bitstream)) == bitstream.file_bytes
