"""The SQLite that the VFS is loaded into, and exceptions that give the reason of a failure."""

from __future__ import annotations

import ctypes
import importlib
import pathlib
import sys
import threading
import urllib.parse
from types import ModuleType
from typing import Any

_lock = threading.Lock()
_loaded: dict[str, ModuleType] = {}

# SQLite's texts for results that the VFS returns. They don't say what happened in Redis.
_TEXTS_WITHOUT_REASON = (
    "access permission denied",
    "attempt to write a readonly database",
    "authorization denied",
    "database disk image is malformed",
    "database is locked",
    "database or disk is full",
    "disk I/O error",
    "file is not a database",
    "internal logic error",
    "interrupted",
    "locking protocol",
    "not authorized",
    "unable to open database",
)


# Arguments of `connect` that are Python's, not settings of the database.
_FOR_PYTHON = (
    "autocommit",
    "cached_statements",
    "check_same_thread",
    "detect_types",
    "factory",
    "isolation_level",
    "timeout",
)


class LoadError(ImportError):
    """No SQLite of this interpreter can load the extension."""


def loadable_path() -> str:
    """The path of the extension, for `load_extension` of any SQLite. It has no suffix: SQLite adds it."""
    return str(pathlib.Path(__file__).with_name("libsqlite_redis"))


def load(host: ModuleType | None = None) -> ModuleType:
    """Loads the extension into a SQLite, once, and returns the module that uses it.

    Without `host` it is `sqlite3`, or `pysqlite3` where `sqlite3` can't load extensions.
    """
    name = "" if host is None else host.__name__
    with _lock:
        if name not in _loaded:
            _loaded[name] = _load_into_any() if host is None else _load_into(host)
        return _loaded[name]


def module() -> ModuleType:
    """The module that `load` returns."""
    return load()


def _load_into_any() -> ModuleType:
    reasons = []
    for name in ("sqlite3", "pysqlite3.dbapi2"):
        try:
            return _load_into(importlib.import_module(name))
        except (ImportError, OSError) as error:
            reasons.append(f"{name}: {error}")
    raise LoadError(
        "this Python's SQLite can't load extensions; `pip install pysqlite3-binary`, or use a Python that can, such as "
        "Debian's or Homebrew's (" + "; ".join(reasons) + ")"
    )


def _load_into(host: ModuleType) -> ModuleType:
    path = loadable_path()
    if hasattr(host, "connect"):
        connection = host.connect(":memory:")
    else:  # apsw
        connection = host.Connection(":memory:")
    try:
        if hasattr(connection, "enable_load_extension"):
            connection.enable_load_extension(True)
            connection.load_extension(path)
            return host
    except (getattr(host, "Error", OSError), AttributeError) as error:
        raise LoadError(f"{path} can't be loaded: {error}") from None
    finally:
        connection.close()
    if host.__name__ != "sqlite3":
        raise LoadError(f"{host.__name__} is built without extensions")
    _load_by_library(path)
    return host


def _load_by_library(path: str) -> None:
    """Loads the extension through the C functions of the SQLite that `sqlite3` is linked to.

    Many builds of Python leave out `enable_load_extension`, although the library can load extensions.
    """
    extension = sys.modules.get("_sqlite3") or importlib.import_module("_sqlite3")
    # Functions are looked up in this library and those it is linked to. It is None where `_sqlite3` is part of the program.
    library = ctypes.CDLL(getattr(extension, "__file__", None))
    try:
        functions = [getattr(library, "sqlite3_" + name) for name in ("open", "enable_load_extension", "load_extension", "close")]
    except AttributeError:
        raise LoadError("its SQLite is built without extensions") from None
    open_, enable, load_extension, close = functions
    database, message = ctypes.c_void_p(), ctypes.c_char_p()
    if open_(b":memory:", ctypes.byref(database)) != 0:
        raise LoadError("a connection can't be opened")
    try:
        enable(database, 1)
        if load_extension(database, path.encode(), None, ctypes.byref(message)) != 0:
            raise LoadError((message.value or b"unknown error").decode(errors="replace"))
    finally:
        close(database)


def uri(name: str, /, *, mode: str | None = None, **settings: Any) -> str:
    """The database `name` as a `file:` URI. `settings` are those of the documentation, such as `redis=` and `prefix=`.

    A setting that is None is left out. True and False are 1 and 0. A list gives the setting several times.
    """
    # Slashes at the start would make SQLite look for a host.
    text = "file:" + urllib.parse.quote(name.lstrip("/")) + "?vfs=redis"
    for key, value in {"mode": mode, **settings}.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is not None:
                shown = str(int(one)) if isinstance(one, bool) else str(one)
                text += f"&{key}={urllib.parse.quote(shown, safe=':/@,')}"
    return text


def connect(host: ModuleType, name: str, mode: str | None, settings: dict[str, Any]) -> Any:
    """Opens a database with a module like `sqlite3` into which the extension was loaded."""
    arguments = {key: settings.pop(key) for key in _FOR_PYTHON if key in settings}
    arguments["factory"] = with_reasons(host, arguments.get("factory", host.Connection))
    try:
        return host.connect(uri(name, mode=mode, **settings), uri=True, **arguments)
    except host.DatabaseError as error:
        raise explained(error, last_error(host)) from None


def last_error(host: ModuleType | None = None) -> str | None:
    """The reason of the last failure in Redis, as a connection that does not use Redis sees it."""
    connection = load(host).connect(":memory:")
    try:
        return _reason(connection)
    finally:
        connection.close()


def _reason(connection: Any) -> str | None:
    base = next(kind for kind in type(connection).__mro__ if kind.__module__.partition(".")[0] in ("sqlite3", "pysqlite3"))
    row = base.execute(connection, "SELECT redis_last_error()").fetchone()
    return None if row is None else (row[0] if isinstance(row, tuple) else tuple(row)[0])


def explained(error: Exception, reason: str | None) -> Exception:
    """The same exception with the reason in its text."""
    if not reason or reason in str(error):
        return error
    new = type(error)(f"{error}: {reason}")
    new.__dict__.update(error.__dict__)
    return new


def with_reasons(module: ModuleType, connection: type) -> type:
    """A class of connections like the given one, whose exceptions give the reason of a failure in Redis."""

    def told(owner: Any, error: Exception) -> Exception:
        if not str(error).startswith(_TEXTS_WITHOUT_REASON):
            return error
        try:
            return explained(error, _reason(owner))
        except module.Error:
            # The connection is closed, or of another thread.
            return error

    def method(kind: type, name: str, owner_of: Any) -> Any:
        inherited = getattr(kind, name)

        def call(self: Any, *arguments: Any, **named: Any) -> Any:
            try:
                return inherited(self, *arguments, **named)
            except module.DatabaseError as error:
                raise told(owner_of(self), error) from None

        call.__name__, call.__doc__ = name, inherited.__doc__
        return call

    def methods(kind: type, names: tuple[str, ...], owner_of: Any) -> dict[str, Any]:
        return {name: method(kind, name, owner_of) for name in names if hasattr(kind, name)}

    def cursors(kind: type) -> type:
        """A class of cursors like the given one, with reasons."""
        names = ("execute", "executemany", "executescript", "fetchone", "fetchmany", "fetchall", "__next__")
        return type(kind.__name__, (kind,), methods(kind, names, lambda self: self.connection))

    own_cursor = cursors(module.Cursor)
    of_factory = {module.Cursor: own_cursor, own_cursor: own_cursor}

    def open_cursor(self: Any, factory: Any = own_cursor) -> Any:
        if isinstance(factory, type):
            factory = of_factory.get(factory) or of_factory.setdefault(factory, cursors(factory))
        return connection.cursor(self, factory)  # type: ignore[attr-defined]

    def execute(self: Any, *arguments: Any) -> Any:
        return self.cursor().execute(*arguments)

    def executemany(self: Any, *arguments: Any) -> Any:
        return self.cursor().executemany(*arguments)

    names = ("backup", "blobopen", "close", "commit", "executescript", "rollback", "serialize", "__exit__")
    members = methods(connection, names, lambda self: self)
    members |= {"cursor": open_cursor, "execute": execute, "executemany": executemany}
    return type("Connection", (connection,), members)
