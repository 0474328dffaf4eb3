"""The server's database: SQLite in a folder of its own, or PostgreSQL by URL.

schema      the metadata that tables are defined on, the schema's version, steps from older ones
engine      a SQLAlchemy engine: URLs, pragmas, errors as StorageError
lock        one server a database
writer      one thread that writes, many changes a commit
database    all of it together: open, read, write, close

Other parts of the server keep their tables in modules of their own (`cloud_server.results.tables`),
defined on `schema.METADATA`; such a module is imported before the database is opened.
"""

from cloud_server.database.database import Database

__all__ = ["Database"]
