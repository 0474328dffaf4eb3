"""How consumers read the log.

servicer    ResultService: pages, single records, subscribers, and stored frames, cut
client      ResultClient, and AsyncResultClient: the other end
"""

from cloud_server.consumers.client import ResultClient

__all__ = ["ResultClient"]
