"""The rate of a device: what it may send a second, and at which state.

link      what the network takes, measured from acknowledgements
bucket    how much may go at once under a rate
costs     what frames take at each state, learned
steering  the state that fits a budget and the network, without hunting
stream    the state of each frame of a stream of key and predicted frames
control   a budget in bytes a second, all of these, and the operator's policy
"""

from edge_client.rate.control import Plan, RateControl

__all__ = ["Plan", "RateControl"]
