"""Which machines a job may be placed on: a TOML file with an address and a certificate for each; nothing is secret."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from strongroom.errors import UsageError
from strongroom.policy.form import Form
from strongroom.policy.problems import MAX_DOCUMENT_BYTES, parse_toml, read_form

MAX_HOSTS = 1000


class HostForm(Form):
    """One lent machine."""

    address: Annotated[str, Field(pattern=r"^[^\s:/]+:[0-9]{1,5}$", max_length=300)] = Field(
        description="where its agent listens", examples=['address = "10.0.0.2:7420"']
    )
    certificate: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] = Field(
        description="its agent's certificate, as `strongroom worker join` prints it",
        examples=['certificate = "sha256:..."'],
    )

    @property
    def endpoint(self) -> tuple[str, int]:
        """Return host and port."""
        host, _, port = self.address.rpartition(":")
        return host, int(port)


class HostSettings(Form):
    """The whole file: the machines in the order in which they are asked; the first that answers gets the driver."""

    hosts: list[HostForm] = Field(
        min_length=1, max_length=MAX_HOSTS, description="one table [[hosts]] for each machine", examples=["[[hosts]]"]
    )

    @field_validator("hosts")
    @classmethod
    def _addresses_differ(cls, hosts: list[HostForm]) -> list[HostForm]:
        if len({host.address for host in hosts}) != len(hosts):
            raise PydanticCustomError("address", "machines with different addresses")
        return hosts


def load_hosts(path: Path) -> HostSettings:
    """Return the machines in the TOML file ``path``; raise DocumentError listing every problem, or UsageError."""
    try:
        data = path.read_bytes()[: MAX_DOCUMENT_BYTES + 1]
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the hosts {path} cannot be read", hint="name a TOML file with [[hosts]]") from error
    document = parse_toml(text, what=f"the hosts {path.name}")
    return read_form(HostSettings, document, what=f"the hosts {path.name}")
