"""SQLAlchemy: `create_engine("sqlite+redis:///shop?redis=redis://localhost:6379")`.

The path is the name of the database in Redis. Query parameters are settings of the database, or `timeout` and other
arguments of `sqlite3.connect`. Transactions that write begin with `BEGIN IMMEDIATE`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import exc, pool
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import coerce_kw_type

from . import _driver, connect, load

# Arguments of `sqlite3.connect` that a URL can have.
_ARGUMENTS = {"timeout": float, "detect_types": int, "check_same_thread": bool, "cached_statements": int}


class RedisDialect(SQLiteDialect_pysqlite):
    """The dialect `sqlite+redis`: SQLite's, on databases that live in Redis."""

    driver = "redis"
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        load()
        return _driver.module()

    dbapi = import_dbapi  # SQLAlchemy before 2.0

    @classmethod
    def get_pool_class(cls, url: Any) -> type:
        return pool.QueuePool

    def create_connect_args(self, url: Any) -> tuple[list[str], dict[str, Any]]:
        if url.username or url.password or url.host or url.port:
            raise exc.ArgumentError("the server is a parameter: sqlite+redis:///shop?redis=redis://localhost:6379")
        if not url.database:
            raise exc.ArgumentError("the URL has no name of a database: sqlite+redis:///shop")
        settings: dict[str, Any] = dict(url.query)
        arguments: dict[str, Any] = {}
        for name, kind in _ARGUMENTS.items():
            coerce_kw_type(settings, name, kind, dest=arguments)
            settings.pop(name, None)
        arguments.setdefault("check_same_thread", False)
        return [url.database], settings | arguments

    def connect(self, *names: Any, **arguments: Any) -> Any:
        return connect(*names, isolation_level="IMMEDIATE", **arguments)

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        super().set_isolation_level(dbapi_connection, level)
        if dbapi_connection.isolation_level is not None:
            dbapi_connection.isolation_level = "IMMEDIATE"
