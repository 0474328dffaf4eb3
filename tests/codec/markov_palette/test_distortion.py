"""Distortion along the stream: what the table sums up is what decoding loses."""

from __future__ import annotations

import numpy as np
import pytest

from codec.markov_palette.coding import DistortionTable, MarkovPaletteCodec
from tests.support.tiny_bundle import make_codec_bundle
from tests.support.tiny_features import distortion, features


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> MarkovPaletteCodec:
    return MarkovPaletteCodec(make_codec_bundle(tmp_path_factory.mktemp("bundle")))


def test_the_table_gives_what_decoding_loses(codec: MarkovPaletteCodec) -> None:
    size = (150, 90)
    values = features(*size)
    chain = codec.chains[0]
    indices = chain.quantise(values)
    table = DistortionTable(chain.palette, values, indices)
    for state, passes in ((4, 0), (4, 3), (3, 0), (3, 5), (2, 1), (1, 0), (1, 3), (0, 0)):
        decoded = codec.decode(chain.code(indices, *size, state=state, passes=passes)).scales
        for scale, lost in table.at(state, passes).items():
            expected = np.square(values[scale] - decoded[scale]).mean()
            assert lost == pytest.approx(expected, rel=1e-4)
    elements = sum(grid.size for grid in values.values())
    for state in range(5):
        whole = sum(table.at(state)[scale] * values[scale].size for scale in values) / elements
        assert whole == pytest.approx(distortion(chain.palette, values, indices, state), rel=1e-4)
