"""Peewee: `RedisDatabase("shop", redis="redis://localhost:6379")`, where Peewee has `SqliteDatabase`."""

from __future__ import annotations

from typing import Any

import peewee

from . import connect


class RedisDatabase(peewee.SqliteDatabase):
    """A SQLite database in Redis. Arguments are those of `SqliteDatabase`, and settings of the database.

    Transactions begin with `BEGIN IMMEDIATE`, unless `lock_type` is another.
    """

    def __init__(self, database: str, *arguments: Any, **settings: Any) -> None:
        settings.setdefault("lock_type", "IMMEDIATE")
        super().__init__(database, *arguments, **settings)

    def _connect(self) -> Any:
        # Peewee shares connections between threads only where the application says so.
        connection = connect(self.database, timeout=self._timeout, isolation_level=None, **self.connect_params)
        try:
            self._add_conn_hooks(connection)
        except BaseException:
            connection.close()
            raise
        return connection
