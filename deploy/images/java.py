"""Make the Java runtime of an image: the modules that Spark uses, linked from Debian's JDK, which itself stays outside.

The JDK's packages are locked like all others. The runtime has no compiler, no debugger, no tools and no desktop
libraries; the same packages give the same files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from debian import Package, unpack

HOME = "usr/lib/jvm/strongroom"
MODULES = (
    *("java.base", "java.compiler", "java.datatransfer", "java.desktop", "java.instrument", "java.logging"),
    *("java.management", "java.naming", "java.net.http", "java.prefs", "java.rmi", "java.scripting"),
    *("java.security.jgss", "java.security.sasl", "java.sql", "java.sql.rowset", "java.transaction.xa", "java.xml"),
    *("java.xml.crypto", "jdk.charsets", "jdk.crypto.ec", "jdk.incubator.vector", "jdk.jfr", "jdk.management"),
    *("jdk.net", "jdk.nio.mapmode", "jdk.security.auth", "jdk.security.jgss", "jdk.unsupported", "jdk.zipfs"),
)
# Java's windows, sound, printing and fonts: their libraries would need others that the image does not have.
_NO_DESKTOP = ("libawt*", "libfontmanager*", "libfreetype*", "libjavajpeg*", "libjawt*", "liblcms*", "libmlib_image*")
_NO_SOUND = ("libjsound*", "libsplashscreen*", "libharfbuzz*")


def link(packages: Iterable[Package], folder: Path, made: Path) -> Path:
    """Return a root that holds nothing but the linked Java runtime and its licence."""
    jdk = made / "jdk"
    jdk.mkdir()
    unpack(packages, folder, jdk)
    (home,) = (path for path in (jdk / "usr/lib/jvm").iterdir() if path.is_dir() and not path.is_symlink())
    for path in sorted(home.rglob("*")):  # Debian keeps settings below /etc, which is the builder's here
        if path.is_symlink() and str(path.readlink()).startswith("/etc/"):
            inside = jdk / str(path.readlink()).lstrip("/")
            path.unlink()
            if inside.exists():
                path.symlink_to(os.path.relpath(inside, path.parent))
    target = made / "java" / HOME
    target.parent.mkdir(parents=True)
    options = ["--strip-debug", "--no-header-files", "--no-man-pages", "--compress=2", "--endian", "little"]
    command = [home / "bin/jlink", *options, "--module-path", home / "jmods", "--add-modules", ",".join(MODULES)]
    subprocess.run([*map(str, command), "--output", str(target)], check=True, env={"LC_ALL": "C.UTF-8"})
    for pattern in (*_NO_DESKTOP, *_NO_SOUND):
        for path in (target / "lib").glob(pattern):
            path.unlink()
    for path in (target / "bin").iterdir():
        if path.name != "java":
            path.unlink()
    (made / "java/usr/bin").mkdir(parents=True)
    (made / "java/usr/bin/java").symlink_to(f"/{HOME}/bin/java")
    shutil.rmtree(jdk)
    return made / "java"
