"""Pages that are alive: hints of change, over WebSockets, to whoever may see what changed. See docs/live-pages.md."""

try:
    import channels  # noqa: F401
except ImportError as error:
    raise ImportError(
        'pipeteer_django.live needs Channels and daphne. Install the extra: pip install "pipeteer-django[live]".'
    ) from error
