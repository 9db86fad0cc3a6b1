"""Datasette: databases in Redis, named in the metadata.

    {"plugins": {"sqlite-redis": {"databases": {"shop": {"redis": "redis://localhost:6379"}}}}}

The keys of `databases` are names in Datasette. `name` gives another name in Redis; other keys are settings.
"""

from __future__ import annotations

from typing import Any

from datasette import hookimpl
from datasette.database import Database
from datasette.utils import sqlite3

from . import _driver


class RedisDatabase(Database):
    """A database in Redis, as Datasette sees it. Reads are on read-only connections."""

    def __init__(self, datasette: Any, name: str, settings: dict[str, Any]) -> None:
        super().__init__(datasette, is_mutable=True)
        self._redis_name = settings.get("name", name)
        self._settings = {key: value for key, value in settings.items() if key != "name"}

    @property
    def size(self) -> int:
        """Bytes of the database."""
        connection = self.connect()
        try:
            pages, page_size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
            return int(pages) * int(page_size)
        finally:
            connection.close()

    def connect(self, write: bool = False) -> Any:
        mode = "rwc" if write else "ro"
        # Datasette prefers `pysqlite3` where that is installed.
        host = _driver.load(sqlite3)
        return _driver.connect(host, self._redis_name, mode, {"check_same_thread": False, **self._settings})


@hookimpl
def startup(datasette: Any) -> None:
    databases = (datasette.plugin_config("sqlite-redis") or {}).get("databases", {})
    for name, settings in databases.items():
        datasette.add_database(RedisDatabase(datasette, name, settings or {}), name=name)
