"""Django's database backend for SQLite databases that live in Redis.

    DATABASES = {
        "default": {
            "ENGINE": "sqlite_redis.django",
            "NAME": "shop",
            "OPTIONS": {"redis": "redis://localhost:6379", "timeout": 10},
        }
    }
"""
