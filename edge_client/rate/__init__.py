"""The rate of a device: what it may send a second, and at which state.

link      what the network takes, measured from acknowledgements
steering  the state that fits both, without hunting
control   a budget in bytes a second, the two above, and the operator's policy
"""

from edge_client.rate.control import RateControl, TokenBucket

__all__ = ["RateControl", "TokenBucket"]
