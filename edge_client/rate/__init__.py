"""The rate of a device: what it may send a second, and at which state.

bucket    a budget in bytes a second
link      what the network takes, measured from acknowledgements
steering  the state that fits both, without hunting
control   the three together, and the operator's policy
"""

from edge_client.rate.bucket import TokenBucket
from edge_client.rate.control import RateControl

__all__ = ["RateControl", "TokenBucket"]
