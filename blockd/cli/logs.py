"""What the daemons write to stderr, alike for all of them."""

import logging

from blockd.config.daemon import DaemonSettings


def start_logging(settings: DaemonSettings) -> None:
    """From the settings' level on, one line an event with its time and place."""
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
