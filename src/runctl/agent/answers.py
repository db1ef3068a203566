"""What S3 answers in XML."""

from __future__ import annotations

from typing import Any, Tuple

from .failures import StoreAway


def parsed(body: bytes, what: str) -> Tuple[Any, str]:
    """The root element, and what stands before each tag: some stores name S3's namespace, some none.

    Raises StoreAway where it came torn.
    """
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(body)  # noqa: S314 (our own store's answer)
    except ElementTree.ParseError as error:
        raise StoreAway("a torn %s: %s" % (what, error)) from error
    return root, root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
