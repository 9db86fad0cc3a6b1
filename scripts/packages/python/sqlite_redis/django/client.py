"""`manage.py dbshell`: the shell `sqlite-redis`."""

from __future__ import annotations

from typing import Any

from django.db.backends.sqlite3 import client

from .._shell import environment, shell_path


class DatabaseClient(client.DatabaseClient):
    """Starts the shell on the database of the settings."""

    executable_name = shell_path()

    @classmethod
    def settings_to_cmd_args_env(cls, settings_dict: dict[str, Any], parameters: list[str]) -> Any:
        from .base import _ARGUMENTS

        options = settings_dict.get("OPTIONS", {})
        settings = {key: value for key, value in options.items() if key not in (*_ARGUMENTS, "transaction_mode", "init_command")}
        return [cls.executable_name, settings_dict["NAME"], *parameters], environment(settings)
