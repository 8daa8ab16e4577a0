"""Downloads from the Hub, without one."""

import huggingface_hub
import pytest

from manifoldgd import hub


def test_without_a_network_the_client_is_not_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *given, **wanted: asked.append(given) or "place")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://nowhere.invalid")
    monkeypatch.setattr(hub, "getproxies", dict)
    with pytest.raises(ConnectionError, match=r"nowhere\.invalid"):
        hub.fetched("owner/name")
    assert asked == []
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy"})  # which may know it
    assert str(hub.fetched("owner/name")) == "place"
