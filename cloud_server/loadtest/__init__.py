"""How much a server takes: simulated devices that replay real streams.

streams    what they send
tally      what became of it
device     one device: its session over all its connections
run        many of them
"""

from cloud_server.loadtest.run import LoadTest, run_load_test
from cloud_server.loadtest.tally import Report

__all__ = ["LoadTest", "Report", "run_load_test"]
