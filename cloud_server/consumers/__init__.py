"""How consumers read the log.

servicer    ResultService
follow      one subscriber: replay, then live
frames      stored frames, cut
client      ResultClient: the other end
"""

from cloud_server.consumers.client import ResultClient

__all__ = ["ResultClient"]
