"""The engine in processes of its own: a crash of native code takes one worker, and no frame.

          ┌─ socket ─ worker 0: LocalEngine
submit ── queue ─────┤
          └─ socket ─ worker 1: LocalEngine

engine     who gets which frame, what becomes of frames whose worker died, workers started again
waiting    frames that wait for a worker, and those under suspicion
child      one worker as its server sees it: started, spoken to, dead
worker     the other end: the process's own main
messages   the engine's values as messages and back
channel    messages over a socket
"""

from cloud_server.engine.process.engine import ProcessEngine

__all__ = ["ProcessEngine"]
