"""``strongroom measure``: say what correct workloads measure, computed from what is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import verb
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
        screen.result(read, text=[f"{name:12} {value}" for name, value in read.items()])
        return
    if image and package:
        raise UsageError("one thing is measured at a time", hint="name --image or --package")
    if init_data and (roles or package):
        raise UsageError("init-data is of a pod, whatever its role", hint="name --init-data alone, or with --image")
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
    screen.warn_simulated()
    screen.result(
        {"tee": tee, "simulated": True, **about, "measurements": found},
        text=[
            *([f"image    {about['image']}"] if about else []),
            *(f"{role:8} {measurement}" for role, measurement in found.items()),
        ],
    )


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
