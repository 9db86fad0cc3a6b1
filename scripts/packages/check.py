"""Uses the installed Python package as its users do. SQLITE_REDIS_URL is a private server."""

import contextlib
import sqlite3

import django
import peewee
import sqlalchemy
from django.conf import settings
from django.core.management import call_command

import sqlite_redis
from sqlite_redis.peewee import RedisDatabase

with contextlib.closing(sqlite_redis.connect("shop")) as db, db:
    db.execute("CREATE TABLE item (name TEXT PRIMARY KEY, price REAL)")
    db.execute("INSERT INTO item VALUES ('tea', 3.5)")

# Reasons of failures are in the exceptions.
holder, waiter = sqlite_redis.connect("shop"), sqlite_redis.connect("shop", timeout=0)
holder.execute("BEGIN IMMEDIATE")
try:
    waiter.execute("BEGIN IMMEDIATE")
    raise AssertionError("two writers at once")
except sqlite3.OperationalError as error:
    assert "another client is writing" in str(error), error
holder.execute("ROLLBACK")
try:
    sqlite_redis.connect("shop", redis="unix:///nowhere")
    raise AssertionError("there is no such server")
except sqlite3.OperationalError as error:
    assert "can't connect" in str(error), error

sqlite_redis.copy("shop", "copy")
assert sqlite_redis.exists("copy") and sqlite_redis.drop("copy") and not sqlite_redis.drop("copy")

with sqlalchemy.create_engine("sqlite+redis:///shop?timeout=5").begin() as connection:
    connection.execute(sqlalchemy.text("INSERT INTO item VALUES ('coffee', 6.9)"))

database = RedisDatabase("shop")
Item = type("Item", (peewee.Model,), {"name": peewee.TextField(primary_key=True), "Meta": type("Meta", (), {"database": database})})
assert [item.name for item in Item.select().order_by(Item.name)] == ["coffee", "tea"]

backend = {"ENGINE": "sqlite_redis.django", "NAME": "site", "OPTIONS": {"timeout": 5}}
settings.configure(DATABASES={"default": backend}, INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"])
django.setup()
call_command("migrate", verbosity=0)
from django.contrib.auth.models import User  # noqa: E402

User.objects.create_user("ann")
assert User.objects.count() == 1
print(f"sqlite_redis {sqlite_redis.__version__} with {sqlite_redis.driver()} {sqlite3.sqlite_version}: all fine")
