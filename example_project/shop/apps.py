from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "example_project.shop"

    def ready(self) -> None:
        """Connect the receivers."""
        from example_project.shop import signals  # noqa: F401
