"""Docstrings name things as ``:class:`Name``` does; on the site they are names in code letters."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([\w.]+)`")


class Roles(Extension):
    """mkdocstrings calls this for everything that it finds."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring, if there is one."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
