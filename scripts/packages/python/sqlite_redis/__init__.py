"""SQLite databases that live in Redis.

    import sqlite_redis

    db = sqlite_redis.connect("shop", redis="redis://localhost:6379", timeout=10)
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS item (name TEXT PRIMARY KEY, price REAL)")

`connect` returns an ordinary `sqlite3.Connection`. `load` makes the VFS `redis` known to the whole process, so
that every library that opens SQLite databases can open `file:shop?vfs=redis`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from types import ModuleType
from typing import Any

from . import _driver, _shell
from ._driver import LoadError, loadable_path, uri
from ._shell import shell_path

__all__ = [
    "LoadError",
    "connect",
    "copy",
    "driver",
    "drop",
    "exists",
    "last_error",
    "load",
    "loadable_path",
    "shell_path",
    "uri",
]

__version__ = importlib.metadata.version("sqlite-redis")

def load(host: ModuleType | None = None) -> None:
    """Makes the VFS `redis` known to the SQLite of this process. Connections that are opened later can use it.

    `host` is the module whose SQLite is meant, such as `apsw` or `pysqlite3`. Without it, it is `sqlite3`, or
    `pysqlite3` where `sqlite3` can't load extensions.

    Raises `LoadError` if that SQLite can't load extensions.
    """
    _driver.load(host)


def driver() -> str:
    """The module whose SQLite has the VFS: `sqlite3`, or `pysqlite3` where `sqlite3` can't load extensions."""
    return _driver.module().__name__.partition(".")[0]


def connect(name: str, /, *, mode: str | None = None, **settings: Any) -> Any:
    """Opens the database `name` in Redis and returns a `sqlite3.Connection`.

    `mode` is `ro`, `rw` or `rwc` (the default: the database is created). Arguments of `sqlite3.connect`, such as
    `timeout` and `isolation_level`, go there; all others are settings of the database, such as `redis`, `prefix`,
    `cache_size` or `consistency`. Other settings come from the environment, such as `SQLITE_REDIS_URL`.

    Raises `sqlite3.OperationalError` with the reason, such as a server that does not answer or a wrong password.
    """
    return _driver.connect(_driver.load(), name, mode, settings)


def exists(name: str, /, **settings: Any) -> bool:
    """Whether there is a database of that name."""
    listed = json.loads(_shell.run(["ls", "--json"], settings))
    return any(database["name"] == name for database in listed)


def copy(source: str, target: str, /, **settings: Any) -> None:
    """Copies a database, one version of it, over another of the same settings. The target is created if need be."""
    with contextlib.closing(connect(source, mode="ro", **settings)) as old:
        with contextlib.closing(connect(target, **settings)) as new:
            old.backup(new)


def drop(name: str, /, **settings: Any) -> bool:
    """Removes a database for good. Returns whether there was one."""
    if not exists(name, **settings):
        return False
    _shell.run(["rm", "--yes", name], settings)
    return True


def last_error() -> str | None:
    """The reason of the last failure in Redis: database, server and cause. None if there was none.

    Exceptions of connections from `connect` have it in their text. It is for connections of other libraries.
    """
    return _driver.last_error()
