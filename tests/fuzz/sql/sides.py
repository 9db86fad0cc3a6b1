"""The two sides: an ordinary table, and a virtual table on a private server. Both run on the same SQLite: the
`sqlite3` of this Python, or that of the wheels `apsw` or `pysqlite3-binary`."""
import ctypes
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time


class Failure(Exception):
    """An error of SQLite: its primary code and its message."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class Standard:
    """A connection of `sqlite3` or `pysqlite3`."""

    def __init__(self, module, encoding):
        self.module = module
        self.db = module.connect(":memory:", isolation_level=None)
        # The text of a blob cast to text may be invalid UTF-8.
        self.db.text_factory = lambda text: text.decode(errors="surrogateescape")
        self.db.execute(f"PRAGMA encoding='{encoding}'")

    def load(self, extension):
        self.db.enable_load_extension(True)
        self.db.load_extension(extension)

    def run(self, sql, values=()):
        try:
            return self.db.execute(sql, values).fetchall()
        except self.module.Error as error:
            raise Failure(getattr(error, "sqlite_errorcode", 1) & 0xFF, str(error)) from None

    def function(self, name, arity, body):
        self.db.create_function(name, arity, body)

    def close(self):
        self.db.close()


class Apsw:
    """A connection of `apsw`."""

    def __init__(self, module, encoding):
        self.module = module
        self.db = module.Connection(":memory:")
        self.run(f"PRAGMA encoding='{encoding}'")

    def load(self, extension):
        self.db.enable_load_extension(True)
        self.db.load_extension(extension)

    def run(self, sql, values=()):
        try:
            return self.db.cursor().execute(sql, values).fetchall()
        except self.module.Error as error:
            code = getattr(error, "result", 1) & 0xFF
            raise Failure(code, str(error).split(": ", 1)[-1]) from None
        except UnicodeDecodeError:
            raise Failure(0, "not UTF-8") from None

    def function(self, name, arity, body):
        self.db.create_scalar_function(name, body, arity)

    def close(self):
        self.db.close()


def host(name):
    """Returns a function that opens connections, and the version of its SQLite."""
    module = __import__("pysqlite3.dbapi2", fromlist=["x"]) if name == "pysqlite3" else __import__(name)
    version = module.sqlite_lib_version() if name == "apsw" else module.sqlite_version
    kind = Apsw if name == "apsw" else Standard
    return (lambda encoding: kind(module, encoding)), version


def die_with_parent():
    """Makes the kernel kill this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Server:
    """A private redis-server on a unix socket."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="fuzz-sql")
        self.path = self.directory + "/s"
        program = os.environ.get("REDIS_SERVER", "redis-server")
        arguments = ["--port", "0", "--unixsocket", self.path, "--save", "", "--dir", self.directory]
        self.process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
        deadline = time.monotonic() + 20
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(self.path)
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.replies = self.socket.makefile("rb")

    url = property(lambda self: "unix://" + self.path)

    def command(self, *words):
        """Sends a command whose reply is a single line."""
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        lines = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        self.socket.sendall(b"*%d\r\n%s" % (len(words), lines))
        reply = self.replies.readline()
        if reply.startswith(b"-"):
            raise RuntimeError(reply.decode())

    def stop(self):
        self.socket.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def shown(value):
    """A value with its type, so that 5, 5.0 and '5' differ."""
    if isinstance(value, float):
        return "real " + struct.pack(">d", value).hex()
    return value


def alike(value, collation):
    """Maps values that SQLite compares as equal to the same value."""
    if isinstance(value, float) and value.is_integer() and -(2**63) <= value < 2**63:
        return int(value)
    if isinstance(value, str):
        # NOCASE folds ASCII letters only.
        lower = {n: n + 32 for n in range(65, 91)}
        return {"NOCASE": value.translate(lower), "RTRIM": value.rstrip(" ")}.get(collation, value)
    return value
