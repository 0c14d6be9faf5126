"""`make dev`: the example site and a worker (which hosts the wake-up proxy), until Ctrl-C."""

import os
import sys
import time

import django
from django.core.management import call_command

from example_project import processes

ADDRESS = os.environ.get("ADDRESS", "127.0.0.1:8000")


def main() -> int:
    """Prepare the database, start both processes, stop both when either ends or somebody presses Ctrl-C."""
    processes.stop_on_sigterm()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
    django.setup()
    call_command("migrate", verbosity=1)
    prepare()
    print(
        f"\n  The site   http://{ADDRESS}/\n  The admin  http://{ADDRESS}/admin/  (a new database: admin, admin)\n"
        "  Ctrl-C stops it all.\n",
        flush=True,
    )
    running = [processes.manage("runserver", ADDRESS), processes.manage("pipeteer_worker", "--reload")]
    try:
        while all(process.poll() is None for process in running):
            time.sleep(0.2)
        return next(process.returncode for process in running if process.returncode is not None) or 1
    except KeyboardInterrupt:
        print("\nStopping ...", flush=True)
        return 0
    finally:
        processes.stop(running)


def prepare() -> None:
    """Fill the shelves, and let somebody into the admin of a new database."""
    from django.contrib.auth import get_user_model  # models exist only after django.setup()

    from example_project.shop.ordering import open_shop

    open_shop(stock=100)
    if not get_user_model().objects.exists():
        os.environ |= {"DJANGO_SUPERUSER_PASSWORD": "admin"}
        call_command("createsuperuser", username="admin", email="admin@example.com", interactive=False, verbosity=0)


if __name__ == "__main__":
    sys.exit(main())
