"""What a deployment adds to a project's settings; the other files in this folder go with it."""

import os

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "shop",
        "USER": "shop",
        "PASSWORD": os.environ["DATABASE_PASSWORD"],
        # PgBouncer, on this host or in this pod.
        "HOST": "127.0.0.1",
        "PORT": "6432",
        # A server-side cursor outlives its transaction, and PgBouncer then has another server for us.
        "DISABLE_SERVER_SIDE_CURSORS": True,
        # To connect to PgBouncer costs little; requests need not share a connection. (Workers keep theirs anyhow.)
        "CONN_MAX_AGE": 0,
        "OPTIONS": {"connect_timeout": 5},
    }
}

PIPETEER = {
    # The host that runs the proxy says tcp://0.0.0.0:5555: it binds an address.
    "PUB_URL": os.environ.get("PIPETEER_PUB_URL", "tcp://10.0.0.5:5555"),
    "SUB_URL": os.environ.get("PIPETEER_SUB_URL", "tcp://10.0.0.5:5556"),
    "CURVE_KEYS": os.environ.get("PIPETEER_KEYS", "/etc/pipeteer/keys"),
    "GRACE": 20.0,  # seconds; systemd and Kubernetes wait longer
}
