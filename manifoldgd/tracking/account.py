"""Which W&B server and which key, found where wandb itself looks, without loading it."""

from __future__ import annotations

import os
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlsplit

CLOUD = "https://api.wandb.ai"


def server() -> str:
    """Address of the interface, without a slash at its end."""
    return os.environ.get("WANDB_BASE_URL", CLOUD).rstrip("/")


def api_key() -> str | None:
    """The key in the environment or in the netrc file that ``wandb login`` writes; ``None`` without."""
    if key := os.environ.get("WANDB_API_KEY"):
        return key
    try:
        file = os.environ.get("NETRC") or str(Path("~/.netrc").expanduser())
        entry = netrc(file).authenticators(urlsplit(server()).hostname or "")
    except (OSError, NetrcParseError):  # a missing or broken netrc must not stop an offline run
        return None
    return entry[2] if entry else None
