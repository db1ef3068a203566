"""What a machine takes over from the host: settings of its libraries, and the Python of its image."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")

_PREFIXES = ("PIP_", "UV_")
_NUMERIC = (
    # They choose kernels and threads, and with them the last bits of every result.
    "ATEN_",
    "BLIS_",
    "CUBLAS_",
    "DNNL_",
    "GOMP_",
    "GOTO_",
    "KMP_",
    "MKL_",
    "NPY_",
    "NVPL_",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
)
_CERTIFICATES = frozenset(
    {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"}
)
_PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"})
_BYPASS = ("NO_PROXY", "no_proxy")
_ELSEWHERE = frozenset(
    # Where packages go, and whose they are, is the machine's affair.
    {
        "PIP_CACHE_DIR",
        "PIP_LOG",
        "PIP_PREFIX",
        "PIP_PYTHON",
        "PIP_REQUIRE_VIRTUALENV",
        "PIP_ROOT",
        "PIP_SRC",
        "PIP_TARGET",
        "PIP_USER",
        "UV_CACHE_DIR",
        "UV_CREDENTIALS_DIR",
        "UV_INSTALL_DIR",
        "UV_PROJECT",
        "UV_PROJECT_ENVIRONMENT",
        "UV_PYTHON",
        "UV_PYTHON_BIN_DIR",
        "UV_PYTHON_INSTALL_DIR",
        "UV_RUN_RECURSION_DEPTH",
        "UV_SYSTEM_PYTHON",
        "UV_TOOL_BIN_DIR",
        "UV_TOOL_DIR",
        "UV_WORKING_DIRECTORY",
    }
)


def package_settings(host: Mapping[str, str]) -> dict[str, str]:
    """The entries of the environment `host` that package clients need to reach their index."""
    wanted = {
        name: value
        for name, value in host.items()
        if (name.startswith(_PREFIXES) and name not in _ELSEWHERE)
        or name in _CERTIFICATES
        or name in _PROXIES
    }
    if _PROXIES & wanted.keys():
        # The cloud itself is on the loopback and must not be looked for through a proxy.
        for name in _BYPASS:
            wanted[name] = ",".join(filter(None, [host.get(name, ""), "127.0.0.1", "localhost"]))
    if "PIP_CONFIG_FILE" not in wanted and (config := _pip_config(host)) is not None:
        wanted["PIP_CONFIG_FILE"] = str(config)
    return wanted


def numeric_settings(host: Mapping[str, str]) -> dict[str, str]:
    """The entries of the environment `host` by which the same script computes the same bits."""
    return {name: value for name, value in host.items() if name.startswith(_NUMERIC)}


def _pip_config(host: Mapping[str, str]) -> Path | None:
    """The user's own pip configuration, which a machine's HOME would hide."""
    home = Path(host.get("HOME", "/nonexistent"))
    base = Path(host.get("XDG_CONFIG_HOME") or home / ".config")
    found = (path for path in (base / "pip/pip.conf", home / ".pip/pip.conf") if path.is_file())
    return next(found, None)


def paths_in(settings: Mapping[str, str]) -> list[Path]:
    """Host paths that the values of `settings` name and that exist: a machine must see them to use them."""
    words = (word.removeprefix("file://") for value in settings.values() for word in value.split())
    return [
        path
        for word in words
        if word.startswith("/") and (path := Path(word)).exists() and len(path.parts) > 2
    ]


def image_paths(image: Iterable[Path]) -> list[Path]:
    """The folders of an image, with the Python installation behind each virtual environment among them."""
    found: list[Path] = []
    for folder in image:
        found.append(folder)
        if folder.resolve() != folder:
            found.append(folder.resolve())
        interpreter = folder / "bin" / "python"
        if interpreter.exists():
            found += _bases(folder, interpreter)
    return list(dict.fromkeys(found))


def _bases(folder: Path, interpreter: Path) -> list[Path]:
    """Prefixes to which the interpreter's links lead: each link on the way may lie in another folder."""
    found: list[Path] = []
    config = folder / "pyvenv.cfg"
    if config.is_file():
        pairs = (line.partition("=") for line in config.read_text().splitlines())
        homes = [Path(value.strip()) for name, _, value in pairs if name.strip() == "home"]
        found += [home.parent for home in homes if home.name == "bin"]
    while interpreter.is_symlink():
        target = Path(os.path.normpath(interpreter.parent / interpreter.readlink()))
        if target.parent.name == "bin" and not target.is_relative_to(folder):
            found.append(target.parent.parent)
        interpreter = target
    found += [prefix.resolve() for prefix in found]
    return [prefix for prefix in found if len(prefix.parts) > 2]


def default_image() -> Sequence[Path]:
    """The virtual environment of this process."""
    return (Path(sys.prefix),)
