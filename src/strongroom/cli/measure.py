"""``strongroom measure``: say what correct workloads measure, computed from what is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import home_option, password_option, verb
from strongroom.errors import UsageError

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@verb(
    examples=(
        "strongroom measure",
        "strongroom measure --json > reference.json",
        "strongroom measure broker driver --tee tdx",
        "strongroom measure --image dist/strongroom-core-0.1.0.oci.tar",
        "strongroom measure --image strongroom.oci.tar --init-data initdata.toml",
        "strongroom measure --sigstruct broker.sig",
        "strongroom measure --event-log /sys/firmware/acpi/tables/data/CCEL --mrtd <96 hex digits>",
        "strongroom measure --tdvf OVMF.fd --event-log /sys/firmware/acpi/tables/data/CCEL",
        "strongroom measure worker --publish worker.signed.json --title worker --number 2",
        "strongroom measure --firmware OVMF.amdsev.fd --processors 4 --processor EPYC-Genoa",
    )
)
@click.argument("roles", nargs=-1, metavar="[ROLE]...")
@click.option("--tee", type=click.Choice(("sgx", "tdx")), default="sgx", show_default=True, help="The kind of TEE.")
@click.option(
    "--package",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    metavar="DIR",
    help="Measure the package in DIR instead of the one that runs.",
)
@click.option("--image", type=_FILE, metavar="FILE", help="Measure the package of a container image's archive.")
@click.option("--init-data", type=_FILE, metavar="FILE", help="Digest a confidential container's init-data (TOML).")
@click.option("--sigstruct", type=_FILE, metavar="FILE", help="Read an SGX enclave's SIGSTRUCT (Gramine: .sig).")
@click.option("--event-log", type=_FILE, metavar="FILE", help="Replay a trust domain's boot event log (CCEL).")
@click.option("--mrtd", metavar="HEX", help="With --event-log: the measurement of the known firmware.")
@click.option("--tdvf", type=_FILE, metavar="FILE", help="Compute MRTD from a trust domain's firmware image.")
@click.option(
    "--page-order",
    type=click.Choice(("page", "region")),
    default="page",
    show_default=True,
    help="With --tdvf: how the hypervisor measures: page by page as KVM in Linux does, or by region as before.",
)
@click.option("--firmware", type=_FILE, metavar="FILE", help="Compute an SEV-SNP guest's launch digest from its OVMF.")
@click.option("--processors", type=int, default=1, show_default=True, help="With --firmware: virtual processors.")
@click.option("--processor", default="EPYC-Milan", show_default=True, help="With --firmware: their model in QEMU.")
@click.option("--kernel", type=_FILE, metavar="FILE", help="With --firmware: the kernel of a measured direct boot.")
@click.option("--initrd", type=_FILE, metavar="FILE", help="With --kernel: its initrd.")
@click.option(
    "--publish",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also sign what was measured as reference values, which policies name by PUBLISHER/TITLE.",
)
@click.option("--title", metavar="TEXT", help="With --publish: what the values are of, such as worker.")
@click.option("--number", type=click.IntRange(min=1), default=1, help="With --publish: grows with every issue.")
@click.option(
    "--days", type=click.IntRange(min=1, max=3650), default=90, help="With --publish: days until they expire."
)
@home_option
@password_option
@click.option("--append", default="", metavar="TEXT", help="With --kernel: its command line.")
def measure(
    screen: Screen,
    *,
    roles: tuple[str, ...],
    tee: str,
    package: Path | None,
    image: Path | None,
    init_data: Path | None,
    sigstruct: Path | None,
    event_log: Path | None,
    mrtd: str | None,
    tdvf: Path | None,
    page_order: str,
    firmware: Path | None,
    processors: int,
    processor: str,
    kernel: Path | None,
    initrd: Path | None,
    append: str,
    publish: Path | None,
    title: str | None,
    number: int,
    days: int,
    home: Path,
    password: Callable[[], bytes],
) -> None:
    """Print the measurements of broker, driver, worker, egress and endpoint, or of something else that is loaded.

    Taken as the simulated TEE takes them, they are the reference values that owners put into policies and
    clients into their trust settings. One changed byte of the package, the interpreter or the entry point changes
    them. With --image they are computed from an image's archive, of which nothing is run: they are what the same
    roles show in a container of it. With --init-data the result is what MRCONFIGID (TDX) or HOSTDATA (SEV-SNP) will
    be; with both, the agent's policy must name the image by its digest. With --sigstruct, --event-log, --tdvf or
    --firmware the reference value is that of a real enclave, trust domain or guest; --tdvf with --event-log gives a
    trust domain's whole measurement.
    """
    sign_and_write = partial(_publish, title=title, number=number, days=days, home=home, password=password)
    if tdvf is not None:
        mrtd = _measure_firmware(tdvf, page_order, mrtd)
        if event_log is None:
            screen.result({"mrtd": mrtd, "page_order": page_order}, text=[f"{'mrtd':12} {mrtd}"])
            return
    named = [path for path in (sigstruct, event_log, firmware) if path is not None]
    if named:
        if len(named) > 1 or roles or package or image or init_data:
            raise UsageError("one thing is measured at a time", hint="name roles, or one file")
        from strongroom.attestation.reference_values import measure_guest, read_sigstruct

        if sigstruct is not None:
            read = read_sigstruct(sigstruct.read_bytes()).to_json()
        elif event_log is not None:
            read = _replay(event_log, mrtd)
        else:
            guest: dict[str, Any] = {"kernel": kernel, "initrd": initrd, "command_line": append}
            read = {"measurement": measure_guest(named[0], processors=processors, processor=processor, **guest)}
        if publish is not None:
            read |= sign_and_write(publish, [read["measurement"]])
        screen.result(read, text=[f"{name:12} {value}" for name, value in read.items()])
        return
    _check_choice(image=image, package=package, init_data=init_data, has_roles=bool(roles))
    from strongroom.attestation.roles import Role
    from strongroom.attestation.simulated.image import measure_image
    from strongroom.attestation.simulated.measuring import installed_package, read_tree
    from strongroom.attestation.simulated.measuring import measure as measure_tree

    wanted = [Role.parse(role) for role in roles] or [role for role in Role if role.attests]
    about: dict[str, Any] = {}
    if image is not None:
        read_of, measured = measure_image(image, wanted)
        about = {"image": read_of.digest, "layers": list(read_of.layers)}
    if init_data is not None:
        bound = _digest_init_data(init_data, pinned=about.get("image"))
        screen.result({**about, **bound}, text=[f"{name:12} {value}" for name, value in bound.items()])
        return
    if image is None:
        tree = read_tree(package or installed_package())
        measured = {role: measure_tree(role, tree) for role in wanted}
    found = {role.value: one.text(tee) for role, one in measured.items()}
    published = {} if publish is None else sign_and_write(publish, list(found.values()))
    screen.warn_simulated()
    screen.result(
        {"tee": tee, "simulated": True, **about, "measurements": found, **published},
        text=[
            *([f"image    {about['image']}"] if about else []),
            *(f"{role:8} {measurement}" for role, measurement in found.items()),
            *(f"{name:8} {value}" for name, value in published.items()),
        ],
    )


def _check_choice(*, image: Path | None, package: Path | None, init_data: Path | None, has_roles: bool) -> None:
    if image and package:
        raise UsageError("one thing is measured at a time", hint="name --image or --package")
    if init_data and (has_roles or package):
        raise UsageError("init-data is of a pod, whatever its role", hint="name --init-data alone, or with --image")


def _publish(
    target: Path,
    measurements: list[str],
    *,
    title: str | None,
    number: int,
    days: int,
    home: Path,
    password: Callable[[], bytes],
) -> dict[str, str]:
    """Sign the measurements by the party at ``home`` and write the statement; return what policies name it by."""
    from strongroom.attestation.published_values import PublishedValues
    from strongroom.envelope.staging import replace_file
    from strongroom.parties.home import Home

    if title is None:
        raise UsageError("reference values need a title", hint="say what they are of: --title worker")
    key = Home(home).open_keys(password).signing
    now = datetime.now(UTC)
    values = PublishedValues(
        publisher=key.party,
        title=title,
        number=number,
        measurements=frozenset(measurements),
        issued=now,
        expires=now + timedelta(days=days),
    )
    replace_file(target, values.sign(key).encode().encode())
    return {"published": str(target), "name": values.name}


def _measure_firmware(tdvf: Path, page_order: str, mrtd: str | None) -> str:
    from strongroom.attestation.firmware import measure_firmware

    if mrtd is not None:
        raise UsageError("MRTD is computed from the firmware, or named", hint="leave out --mrtd or --tdvf")
    return measure_firmware(tdvf.read_bytes(), order="region" if page_order == "region" else "page").hex()


def _digest_init_data(path: Path, *, pinned: str | None) -> dict[str, str]:
    """Return what the registers will be; with ``pinned``, only for a policy that names the image of that digest."""
    from strongroom.jobs.launch.kubernetes.flavours import init_data_digest

    document = path.read_bytes()
    if pinned is not None and pinned.encode() not in document:
        raise UsageError(
            f"the agent's policy in {path} does not name the image {pinned}",
            hint="make it with genpolicy from a pod whose image is name@digest, so that no other image can be started",
        )
    return {
        "mrconfigid": init_data_digest("tdx", document).hex(),
        "hostdata": init_data_digest("snp", document).hex(),
    }


def _replay(event_log: Path, mrtd: str | None) -> dict[str, str]:
    from strongroom.attestation.reference_values import measure_domain

    if mrtd is None or not re.fullmatch(r"[0-9a-fA-F]{96}", mrtd):
        raise UsageError(
            "a log says nothing of the firmware itself", hint="name its measurement: --mrtd, 96 hex digits"
        )
    measurement, registers = measure_domain(event_log.read_bytes(), mrtd=bytes.fromhex(mrtd))
    return {"measurement": measurement, **{f"rtmr{number}": one.hex() for number, one in enumerate(registers)}}
