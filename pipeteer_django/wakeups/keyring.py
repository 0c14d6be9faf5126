"""All keys of an installation, in the operator's hands: made, spread over the hosts' folders, and withdrawn.

FOLDER/proxy.key, proxy.key_secret    the proxy's key pair
FOLDER/allowed/NAME.key               the public keys of all hosts that may connect
FOLDER/hosts/NAME/                    what that host needs, see keys.py
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from zmq.auth import create_certificates

from .keys import ALLOWED, HOST, PROXY, PROXY_SECRET

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class KeyringError(Exception):
    """The keys cannot be made or changed as asked; the message says why."""


class Keyring:
    """Never overwrites a key. Every method raises KeyringError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def hosts(self) -> list[str]:
        """Names of the hosts that have keys."""
        return sorted(path.parent.name for path in self.folder.glob(f"hosts/*/{HOST}"))

    def proxies(self) -> list[str]:
        """Names of those that may run the proxy."""
        return sorted(path.parent.name for path in self.folder.glob(f"hosts/*/{PROXY_SECRET}"))

    def of(self, name: str) -> Path:
        """The folder that is to be copied to this host."""
        if not _NAME.fullmatch(name):
            raise KeyringError(
                f"{name!r} cannot be a host's name here. Write letters, digits, dots, dashes and underscores, 63 of "
                "them at most, the first a letter or a digit."
            )
        return self.folder / "hosts" / name

    def add(self, name: str) -> bool:
        """Make keys for this host, and for the proxy if it has none. False if the host has some."""
        host = self.of(name)
        new = not (host / HOST).exists()
        if not self._master(PROXY_SECRET).exists():
            self._make(self.folder, "proxy")
        if new:
            self._make(host, "host")
        self._copy(host / "host.key", self._master(ALLOWED) / f"{name}.key")
        self._copy(self._master(PROXY), host / PROXY)
        return new

    def let_host(self, name: str) -> None:
        """Allow this host to run the proxy."""
        self._copy(self._master(PROXY_SECRET), self.of(name) / PROXY_SECRET)

    def remove(self, name: str) -> bool:
        """Take this host off the list, and delete the keys kept for it here. True if it might run the proxy."""
        if name not in self.hosts():
            raise KeyringError(f"{self.folder} has no keys of {name!r}. It has those of: {', '.join(self.hosts())}.")
        (self._master(ALLOWED) / f"{name}.key").unlink(missing_ok=True)
        for copied in self.folder.glob(f"hosts/*/{ALLOWED}/{name}.key"):
            copied.unlink()
        hosted = name in self.proxies()
        shutil.rmtree(self.of(name))
        return hosted

    def spread(self) -> None:
        """Give all that may run the proxy the list as it is now."""
        for name in self.proxies():
            listed = {path.name for path in self._master(ALLOWED).glob("*.key")}
            for key in listed:
                self._copy(self._master(ALLOWED) / key, self.of(name) / ALLOWED / key)
            for copied in (self.of(name) / ALLOWED).glob("*.key"):
                if copied.name not in listed:
                    copied.unlink()

    def _master(self, name: str) -> Path:
        return self.folder / name

    def _make(self, folder: Path, name: str) -> None:
        """A key pair, complete or not at all; nobody else can read it at any time."""
        self._make_folder(folder)
        with tempfile.TemporaryDirectory(dir=folder) as private:
            public, secret = map(Path, create_certificates(private, name))
            secret.chmod(0o600)
            self._copy(public, folder / public.name)
            self._copy(secret, folder / secret.name)

    def _copy(self, source: Path, target: Path) -> None:
        """Unless it is there already, by a rename: a proxy that reads the list meanwhile finds no half of a key."""
        if target.exists():
            if target.read_bytes() != source.read_bytes():
                raise KeyringError(f"{target} holds another key than {source}. Nothing was overwritten.")
            return
        self._make_folder(target.parent)
        with tempfile.TemporaryDirectory(dir=target.parent) as private:
            Path(shutil.copy(source, private)).rename(target)

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise KeyringError(f"{folder} cannot be made: {error}") from error
