"""The program `sqlite-redis`, which the package contains."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import Any

# Settings whose environment variable has another name.
_VARIABLES = {"redis": "URL"}


def shell_path() -> str:
    """The path of the program `sqlite-redis`."""
    return str(pathlib.Path(__file__).with_name("bin") / "sqlite-redis")


def environment(settings: dict[str, Any]) -> dict[str, str]:
    """The environment of this process, and settings such as those of `connect`."""
    variables = dict(os.environ)
    for key, value in settings.items():
        if value is not None:
            text = str(int(value)) if isinstance(value, bool) else str(value)
            variables["SQLITE_REDIS_" + _VARIABLES.get(key, key.upper())] = text
    return variables


def run(arguments: list[str], settings: dict[str, Any]) -> str:
    """Runs the program and returns its output. Raises `RuntimeError` with its message if it fails."""
    command = [shell_path(), *arguments]
    done = subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"{command[0]} ended with {done.returncode}")
    return done.stdout


def main() -> None:
    """The command `sqlite-redis`."""
    os.execv(shell_path(), ["sqlite-redis", *sys.argv[1:]])
