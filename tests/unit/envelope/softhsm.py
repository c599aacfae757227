"""Tokens of a real PKCS#11 module, SoftHSM, for tests: in a folder of their own, with a PIN each."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
PIN = b"vault-4711"
TOKENS = ("owners", "others", "weakened", "guarded", "pulled", "shops", "cards", "persons")


def find_module() -> Path:
    """Return SoftHSM's module; install it if it is missing, and fail loudly where that cannot be done."""
    for attempt in range(2):
        for path in (Path("/usr/lib/softhsm/libsofthsm2.so"), Path("/usr/local/lib/softhsm/libsofthsm2.so")):
            if path.exists():
                return path
        if not attempt:
            subprocess.run([REPOSITORY / "scripts" / "apt", "softhsm2"], check=True, timeout=240)
    raise FileNotFoundError("libsofthsm2.so")


class SoftHsm:
    """The module and its tokens; ``twins`` are two tokens with one label."""

    def __init__(self, folder: Path) -> None:
        self.module = find_module()
        self.folder = folder
        self.tokens = folder / "tokens"
        self.tokens.mkdir()
        self.settings = folder / "softhsm2.conf"
        self.settings.write_text(
            f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        self.environment = {**os.environ, "SOFTHSM2_CONF": str(self.settings)}
        self.serials = {name: self._make(name) for name in TOKENS}
        self.twins = [self._make("twin"), self._make("twin")]

    def _make(self, label: str) -> str:
        """Make a token and return its serial number; a module that is loaded already will not see it."""
        before = set(self.tokens.iterdir())
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN.decode(), "--so-pin", "5678-so"],
            check=True, capture_output=True, timeout=60, env=self.environment,
        )  # fmt: skip
        [made] = set(self.tokens.iterdir()) - before
        return made.name.replace("-", "")[-16:]

    def uri(self, key: str = "claims", *, token: str = "owners", more: str = "") -> str:
        return f"pkcs11:token={token};object={key}?module-path={self.module}{more}"

    def files(self, token: str) -> Path:
        """Return the folder in which SoftHSM keeps a token."""
        return next(path for path in self.tokens.iterdir() if path.name.replace("-", "").endswith(self.serials[token]))
