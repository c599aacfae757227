"""Images that are really built from the locks, twice, and in which a job really runs.

STRONGROOM_TEST_IMAGES adds variants to ``core`` (for example ``spark``, which takes minutes more).
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from image_node import NAMESERVER, ImageCluster, contained

from strongroom.attestation.images import read_image
from strongroom.attestation.roles import Role
from strongroom.attestation.simulated.image import measure_image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "deploy/images"))
VARIANTS = ["core", *os.environ.get("STRONGROOM_TEST_IMAGES", "").split()]
JOB_ROLES = (Role.DRIVER, Role.WORKER, Role.EGRESS)
USERS = [10001, 54321]  # the image's own, and one that no list of accounts holds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.xdist_group("images")]


def run(*command: object, **more) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def build(variant: str, out: Path, *, sources: Path = ROOT, **changes) -> dict:
    command = [sys.executable, sources / "deploy/images/build.py", variant, "--json", "--out", out]
    command += ["--cache", ROOT / "build/images", "--lock", usable_lock(out)]
    return json.loads(run(*command, cwd=out, **changes).splitlines()[-1])


def usable_lock(out: Path) -> Path:
    """The lock of the repository, or one made now where the machine's sources have moved on."""
    import debian

    committed = ROOT / "deploy/images/debian.lock"
    made = ROOT / "build/images/debian.now.lock"
    try:
        debian.fetch(debian.read_lock(committed), ROOT / "build/images/debian")
    except debian.PackageError:
        names = [one.name for one in debian.read_lock(committed)]
        debian.write_lock(made, debian.pin(names, ROOT / "build/images/debian"))
        return made
    return committed


@pytest.fixture(scope="module")
def tools():
    missing = [name for name in ("skopeo", "umoci", "bwrap", "objdump") if not shutil.which(name)]
    packages = {"bwrap": "bubblewrap", "objdump": "binutils"}
    for name in missing:
        done = subprocess.run([ROOT / "scripts/apt", packages.get(name, name)], check=False)
        if done.returncode:
            pytest.skip(f"{name} is missing and cannot be installed")


@pytest.fixture(scope="module", params=VARIANTS)
def image(request, tmp_path_factory, tools):
    out = tmp_path_factory.mktemp(f"image-{request.param}")
    built = build(request.param, out)
    layout = out / "layout"
    layout.mkdir()
    run("tar", "-C", layout, "-xf", built["archive"])
    run("umoci", "unpack", "--image", f"{layout}:0.1.0", out / "bundle")
    for path in ("tmp", "dev/shm"):  # where a runtime mounts
        (out / "bundle/rootfs" / path).mkdir(parents=True, exist_ok=True)
    return request.param, built, out / "bundle/rootfs"


def environment(root: Path) -> dict[str, str]:
    config = json.loads((root.parent / "config.json").read_text())
    return {one.partition("=")[0]: one.partition("=")[2] for one in config["process"]["env"] if one[:4] != "HOME"}


def inside(root: Path, *command: str, user: int = 10001) -> str:
    mounts = ["--tmpfs", "/tmp", "--tmpfs", "/dev/shm", "--unshare-net"]
    return run(*contained(root, environment(root), *mounts, user=str(user)), *command)


@contextmanager
def cluster_of(world, *, root: Path, place: Path):
    from lab import IMAGE, Lab
    from small_world import frozen_package

    cluster = ImageCluster(
        place,
        root=root,
        environment=environment(root),
        claims={"storage": world.directory},
        images={IMAGE},
        package=frozen_package(),
    )
    try:
        yield Lab(world=world, cluster=cluster)
    finally:
        cluster.close()


def test_second_build_elsewhere_gives_the_same_digest(image, tmp_path):
    """Another folder, user's mask, time zone and language, and some minutes later."""
    variant, built, _ = image
    sources = tmp_path / "elsewhere"
    for name in ("src", "deploy"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(ROOT / name, sources / name)
    changed = {**os.environ, "TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    again = build(variant, tmp_path, sources=sources, env=changed, umask=0o077)
    assert again["digest"] == built["digest"]
    assert Path(again["archive"]).read_bytes() == Path(built["archive"]).read_bytes()


def test_other_tools_read_the_archive(image):
    variant, built, _ = image
    seen = json.loads(run("skopeo", "inspect", f"oci-archive:{built['archive']}"))
    assert seen["Digest"] == built["digest"]
    loaded = json.loads(run("skopeo", "inspect", "--config", f"docker-archive:{built['archive']}"))
    assert loaded["config"]["User"] == "10001:10001"
    assert built["image"] == f"localhost/strongroom-{variant}:0.1.0"


def test_list_of_contents_is_valid_cyclonedx(image):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    _, built, _ = image
    text = Path(built["archive"]).with_suffix(".cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    names = {one["name"] for one in json.loads(text)["components"]}
    assert {"libc6", "libssl3", "pyarrow", "strongroom"} <= names


def test_image_has_no_shell_no_package_manager_and_every_library_it_needs(image):
    from debian import list_missing_libraries

    _, _, root = image
    for name in ("sh", "bash", "dash", "apt", "dpkg", "perl", "su", "mount"):
        assert not (root / "usr/bin" / name).exists()
    assert list(list_missing_libraries(root)) == []
    assert not [path for path in root.rglob("*") if path.lstat().st_mode & 0o6000]


@pytest.mark.parametrize("user", USERS)
def test_measurements_from_the_archive_are_those_that_containers_show(image, user):
    _, built, root = image
    read, measured = measure_image(Path(built["archive"]), (Role.BROKER, *JOB_ROLES))
    command = ("python3", "-P", "-s", "-m", "strongroom", "measure", "--json")
    shown = json.loads(inside(root, *command, user=user))["measurements"]
    assert read.digest == built["digest"]
    assert {role.value: one.text("sgx") for role, one in measured.items()}.items() <= shown.items()


def test_changed_layer_is_not_measured(image, tmp_path):
    """Attack: an image whose layer was exchanged, under the manifest of the one that owners agreed to."""
    from strongroom.attestation.images import ImageError

    _, built, _ = image
    data = bytearray(Path(built["archive"]).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "changed.tar").write_bytes(data)
    with pytest.raises(ImageError):
        read_image(tmp_path / "changed.tar", into=tmp_path / "root", wanted=lambda _name: False)


@pytest.fixture
def silence():
    """A name service that hears and never answers, as where a cluster has none; yields what it was asked."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        try:
            service.bind((NAMESERVER, 53))
        except PermissionError:
            pytest.skip("only root may listen where name services do")
        service.settimeout(0.2)
        over = threading.Event()

        def hear() -> None:
            while not over.is_set():
                with suppress(TimeoutError):
                    heard.append(service.recv(512))

        listener = threading.Thread(target=hear)
        listener.start()
        yield heard
        over.set()
        listener.join()


@pytest.mark.parametrize("user", USERS)
def test_job_runs_in_containers_of_the_image_and_asks_no_name_service(image, user, silence, tmp_path):
    """Driver, workers and egress from the image, read-only, not as root; the policies name what it was computed to."""
    from small_world import expected_answer, small_world

    variant, built, root = image
    _, measured = measure_image(Path(built["archive"]), JOB_ROLES)
    with (
        small_world(tmp_path / "world", elsewhere={role: one.text("sgx") for role, one in measured.items()}) as world,
        cluster_of(world, root=root, place=tmp_path / "cluster") as lab,
    ):
        report = lab.run(engine="embedded" if variant == "core" else "spark", user=user)
        assert world.fetch(report) == expected_answer()
        assert silence == []


@pytest.mark.parametrize("user", USERS)
def test_endpoint_answers_from_a_container_of_the_image(image, user, tmp_path):
    from serving_world import SIMPLE, ask, outputs, simple_world

    variant, built, root = image
    if variant == "core":
        pytest.skip("the image core has no NumPy, so no endpoints")
    _, measured = measure_image(Path(built["archive"]), (Role.ENDPOINT,))
    with (
        simple_world(tmp_path, elsewhere={role: one.text("sgx") for role, one in measured.items()}) as world,
        cluster_of(world, root=root, place=tmp_path / "cluster") as lab,
    ):
        endpoint = world.serve(world.serve_job("simple", program=SIMPLE), host=lab.host(user=user))
        try:
            with world.asking(endpoint) as client:
                assert outputs(ask(client, [[1.0, 0.0]]))["score"] == [0.123]
        finally:
            endpoint.stop()


def test_broker_of_the_image_opens_its_door(image):
    _, _, root = image
    asked = "import sys, strongroom.broker.__main__ as broker; sys.exit(broker.main(['--help']))"
    assert "--listen" in inside(root, "python3", "-P", "-s", "-c", asked)


def test_real_container_runtime_imports_and_starts_the_image(image, tmp_path):
    """containerd and runc, where this machine may start them; a cluster's nodes have the same."""
    if os.geteuid() != 0 or not all(shutil.which(name) for name in ("containerd", "ctr", "runc")):
        pytest.skip("containerd and runc are not at hand")
    _, built, _ = image
    (tmp_path / "config.toml").write_text(
        f'version = 2\nroot = "{tmp_path}/root"\nstate = "{tmp_path}/state"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{tmp_path}/socket"\n'
    )
    with (tmp_path / "log").open("wb") as log:
        daemon = subprocess.Popen(["containerd", "-c", tmp_path / "config.toml"], stdout=log, stderr=log)
    try:
        ctr = ("ctr", "--connect-timeout", "20s", "-a", tmp_path / "socket", "-n", "k8s.io")
        for _ in range(100):
            if (tmp_path / "socket").exists():
                break
            daemon.poll()
            import time

            time.sleep(0.1)
        run(*ctr, "images", "import", built["archive"])
        assert built["digest"] in run(*ctr, "images", "ls", f"name=={built['image']}")
        said = run(*ctr, "run", "--rm", "--read-only", built["image"], "test", timeout=120)
        assert said.startswith("strongroom, version")
    finally:
        daemon.terminate()
        daemon.wait(20)
