"""What pip was told of package indexes, as uv understands it: uv stands in for pip, and reads no pip.conf."""

from __future__ import annotations

import configparser
import os
from typing import Dict, Mapping

_FILES = ("/etc/pip.conf", "/etc/xdg/pip/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")
_OPTIONS = ("index-url", "extra-index-url", "find-links", "constraint", "cert")
_OF_UV = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL")


def for_uv(environ: Mapping[str, str]) -> Dict[str, str]:
    """Variables for uv; none if it was told of indexes itself.

    By variables and not by arguments: these can be read by every user of a computer.
    """
    if any(name in environ for name in _OF_UV):
        return {}
    told = _told(environ)
    settings = {
        "UV_DEFAULT_INDEX": told.get("index-url", ""),
        "UV_INDEX": told.get("extra-index-url", ""),
        "UV_FIND_LINKS": ",".join(told.get("find-links", "").split()),
        "UV_CONSTRAINT": told.get("constraint", ""),
        "SSL_CERT_FILE": told.get("cert", ""),
        # pip looks at all of them, too, and takes the newest.
        "UV_INDEX_STRATEGY": "unsafe-best-match" if told.get("extra-index-url") else "",
    }
    return {name: value for name, value in settings.items() if value and name not in environ}


def _told(environ: Mapping[str, str]) -> Dict[str, str]:
    named, prefix = environ.get("PIP_CONFIG_FILE"), environ.get("VIRTUAL_ENV")
    files = [*_FILES, *(["%s/pip.conf" % prefix] if prefix else []), *([named] if named else [])]
    found: Dict[str, str] = {}
    for name in files if named != os.devnull else ():
        parser = configparser.RawConfigParser()
        try:
            parser.read(os.path.expanduser(name), encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip says what is wrong with it
        for section in ("global", "install"):
            if parser.has_section(section):
                items = parser.items(section)
                found.update({key: " ".join(value.split()) for key, value in items if key in _OPTIONS})
    for key in _OPTIONS:
        value = environ.get("PIP_" + key.upper().replace("-", "_"))
        if value:
            found[key] = value
    return found
