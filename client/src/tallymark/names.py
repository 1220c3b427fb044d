"""What this library calls itself, and how long it asks. Apart, so that who only
records need not load what is for asking."""

from __future__ import annotations

from tallymark._version import __version__

CLIENT_NAME = f"tallymark-client {__version__}"
"""How this library calls itself to the daemon."""

ASK_TIMEOUT_SECONDS = 5.0
"""How long a question may take, from connecting to the end of its answer."""
