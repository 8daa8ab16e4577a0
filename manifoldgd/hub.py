"""Downloads from the Hugging Face Hub."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies


def fetched(repository: str, **wanted: Any) -> Path:
    """The folder of a repository's files in the Hub's cache, where what is missing has been downloaded.

    Args:
        repository: ``owner/name``.
        wanted: of ``huggingface_hub.snapshot_download``: ``revision``, ``repo_type``, ``allow_patterns``.

    Raises:
        Exception: whatever the Hub's client raises; ``ConnectionError`` at once where there is no network.
    """
    import huggingface_hub

    check_network()
    return Path(huggingface_hub.snapshot_download(repository, **wanted))


def check_network() -> None:
    """Raise ``ConnectionError`` where the Hub's address is not known: its client would ask six times over."""
    from huggingface_hub.constants import ENDPOINT

    host = urlsplit(ENDPOINT).hostname
    if host is None or getproxies():  # a proxy knows addresses that this machine does not
        return
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise ConnectionError(f"the address of {host} is not known here, as without a network") from error
