"""Test databases: `test_NAME` in Redis, and a copy for each process of `test --parallel`."""

from __future__ import annotations

import sys
from typing import Any

from django.db.backends.base.creation import BaseDatabaseCreation
from django.db.backends.sqlite3 import creation

from .. import copy, drop, exists


class DatabaseCreation(creation.DatabaseCreation):
    """Makes, copies and drops test databases."""

    @staticmethod
    def is_in_memory_db(database_name: str) -> bool:
        return False

    def _get_test_db_name(self) -> str:
        return BaseDatabaseCreation._get_test_db_name(self)

    def _settings(self) -> dict[str, Any]:
        options = self.connection.settings_dict["OPTIONS"]
        return {key: value for key, value in options.items() if key not in ("transaction_mode", "init_command", "timeout")}

    def _create_test_db(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        name = self._get_test_db_name()
        if keepdb or not exists(name, **self._settings()):
            return name
        if not autoclobber:
            answer = input(f"The database `{name}` exists. Type 'yes' to delete it, or 'no' to cancel: ")
            if answer != "yes":
                self.log("Tests cancelled.")
                sys.exit(1)
        if verbosity >= 1:
            self.log(f"Destroying old test database for alias {self._get_database_display_str(verbosity, name)}...")
        drop(name, **self._settings())
        return name

    def get_test_db_clone_settings(self, suffix: str) -> dict[str, Any]:
        return BaseDatabaseCreation.get_test_db_clone_settings(self, suffix)

    def _clone_test_db(self, suffix: str, verbosity: int, keepdb: bool = False) -> None:
        source = self.connection.settings_dict["NAME"]
        target = self.get_test_db_clone_settings(suffix)["NAME"]
        if keepdb and exists(target, **self._settings()):
            return
        if verbosity >= 1:
            self.log(f"Cloning test database for alias {self._get_database_display_str(verbosity, target)}...")
        drop(target, **self._settings())
        copy(source, target, **self._settings())

    def _destroy_test_db(self, test_database_name: str, verbosity: int) -> None:
        drop(test_database_name, **self._settings())

    def test_db_signature(self) -> tuple[Any, ...]:
        return (self.connection.settings_dict["NAME"], *sorted((key, str(value)) for key, value in self._settings().items()))

    def setup_worker_connection(self, _worker_id: int) -> None:
        BaseDatabaseCreation.setup_worker_connection(self, _worker_id)
