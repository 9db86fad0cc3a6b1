"""The backend: Django's own for SQLite, with names in place of paths."""

from __future__ import annotations

from typing import Any

from django.db.backends.sqlite3 import base

from .. import _driver, load, uri
from .client import DatabaseClient
from .creation import DatabaseCreation

# Options that are arguments of `sqlite3.connect`, or Django's own. All others are settings of the database.
_ARGUMENTS = ("cached_statements", "check_same_thread", "database", "detect_types", "isolation_level", "timeout", "uri")


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection. Transactions begin with `BEGIN IMMEDIATE`, unless the option `transaction_mode` is another."""

    display_name = "SQLite in Redis"
    client_class = DatabaseClient
    creation_class = DatabaseCreation
    transaction_mode: str | None = None

    def get_connection_params(self) -> dict[str, Any]:
        load()
        parameters = super().get_connection_params()
        self.transaction_mode = self.transaction_mode or "IMMEDIATE"
        settings = {key: parameters.pop(key) for key in list(parameters) if key not in _ARGUMENTS}
        parameters["database"] = uri(parameters["database"], **settings)
        parameters["factory"] = _driver.with_reasons(self.Database, self.Database.Connection)
        return parameters

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        try:
            return super().get_new_connection(conn_params)
        except self.Database.DatabaseError as error:
            raise _driver.explained(error, _driver.last_error()) from None

    def _start_transaction_under_autocommit(self) -> None:
        # Django before 5.1 has no option for it.
        self.cursor().execute(f"BEGIN {self.transaction_mode}")
