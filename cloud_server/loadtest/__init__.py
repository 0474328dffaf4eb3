"""How much a server takes: simulated devices that replay real streams.

device     one device: what it sends, and its session over all its connections
run        many of them
tally      what became of it
"""

from cloud_server.loadtest.run import LoadTest, run_load_test
from cloud_server.loadtest.tally import Report

__all__ = ["LoadTest", "Report", "run_load_test"]
