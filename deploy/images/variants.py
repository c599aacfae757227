"""Which images there are, and what goes into each: no package is in an image that none of its roles needs."""

from __future__ import annotations

from dataclasses import dataclass

_C = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g")
_PYTHON = (
    *("python3-minimal", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
    *("libbz2-1.0", "libcrypt1", "libexpat1", "libffi8", "liblzma5", "libsqlite3-0", "libssl3", "libuuid1", "tzdata"),
)
_SPARK = ("coreutils", "libselinux1", "libpcre2-8-0")  # two programs of it, for Hadoop
# Only to link the runtime from; their files are not in the image.
JDK = ("openjdk-17-jdk-headless", "openjdk-17-jre-headless")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """An image: its Debian packages, the extras of this package, and the lock that pins what those need."""

    roles: tuple[str, ...]
    packages: tuple[str, ...]
    extras: tuple[str, ...] = ("postgres", "k8s")
    lock: str = "requirements-dev.lock"  # it pins all extras, and what both locks pin is the same
    java: bool = False


VARIANTS = {
    # The broker, jobs of the embedded engine, egress.
    "core": Variant(roles=("broker", "driver", "worker", "egress"), packages=(*_C, *_PYTHON)),
    # The same, jobs of the engine spark, and endpoints of models that need NumPy alone.
    "spark": Variant(
        roles=("broker", "driver", "worker", "egress", "endpoint"),
        packages=(*_C, *_PYTHON, *_SPARK),
        extras=("postgres", "k8s", "spark", "serving"),
        java=True,
    ),
    # The same, and programs and models that use scikit-learn, Polars, XGBoost or LightGBM.
    "learning": Variant(
        roles=("driver", "worker", "egress", "endpoint"),
        packages=(*_C, *_PYTHON, *_SPARK, "libgomp1"),
        extras=("k8s", "spark", "learning", "serving"),
        java=True,
    ),
}
