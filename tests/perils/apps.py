from django.apps import AppConfig


class PerilsConfig(AppConfig):
    """Pipelines that misbehave. Worker processes of a test may also be rigged, by environment variables."""

    name = "tests.perils"
    label = "perils"

    def ready(self) -> None:
        from tests import failpoints, mutants  # they look at the engine, which has models

        mutants.install()
        failpoints.install()
