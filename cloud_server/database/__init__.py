"""The server's database: SQLite in a folder of its own, or PostgreSQL by URL.

schema      every table, the schema's version, steps from older ones
locks       one server a database, or several that share it and commit one at a time
writer      one thread that writes, many changes a commit
database    all of it together: open, read, write, close; errors as StorageError
"""

from cloud_server.database.database import Database

__all__ = ["Database"]
