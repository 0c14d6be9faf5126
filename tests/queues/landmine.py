"""What hostile rows name. Nothing may import it: that alone would run it."""


def blow(*arguments: object) -> None:
    """The function that they would like to be called."""
