"""Hold the roots that evidence may lead to: Intel's, compiled in; any other only as a simulated vendor's.

No file, environment variable or option of a host can add a root that counts as genuine (spec/4-release.md §3.2).
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from cryptography import x509

from strongroom.errors import UsageError

INTEL_SGX_ROOT_SHA256 = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
GENUINE_ROOTS = frozenset({INTEL_SGX_ROOT_SHA256})
# Intel SGX Root CA, the public certificate at certificates.trustedservices.intel.com, valid to 2049-12-31.
_INTEL_SGX_ROOT = base64.b64decode(
    "MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAY"
    "BgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMB4XDTE4MDUy"
    "MTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9u"
    "MRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDI"
    "YZOj/iPWsCzaEKi71OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxFP2sJBK5zlKOBuzCBuDAfBgNVHSMEGDAWgBQiZQzW"
    "Wp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJMEegRaBDhkFodHRwczovL2NlcnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50ZWwuY29t"
    "L0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInzg7SVUr9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYB"
    "Af8CAQEwCgYIKoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9CiSDcNoowLuPRLsWGf/Yi7GSX94BgwTwgAiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZ"
    "UGOdRQ7cvqRXaqI="
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAnchor:
    """The root certificate that evidence must lead to; ``simulated`` says that no hardware stands behind it.

    A root other than a compiled-in one can only be a simulated vendor's: raise UsageError if it claims otherwise. A
    genuine root called simulated is merely trusted less.
    """

    root_der: bytes
    simulated: bool

    def __post_init__(self) -> None:
        if not self.simulated and self.sha256 not in GENUINE_ROOTS:
            raise UsageError(
                f"root {self.sha256[:16]}.. is not a hardware vendor's compiled-in root",
                hint="pass simulated=True; results under this root are then never affirming",
            )
        try:
            x509.load_der_x509_certificate(self.root_der)
        except ValueError as error:
            raise UsageError(
                "the root is not a certificate in DER", hint="convert PEM with `openssl x509 -outform der`"
            ) from error

    @property
    def sha256(self) -> str:
        """Return the hex SHA-256 of the certificate."""
        return hashlib.sha256(self.root_der).hexdigest()


INTEL = TrustAnchor(root_der=_INTEL_SGX_ROOT, simulated=False)
