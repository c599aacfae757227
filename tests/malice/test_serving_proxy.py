"""Behind the proxy stands another job's endpoint, changed code, or somebody who ends TLS and carries on both sides."""

import json
from contextlib import closing

import httpx
import pytest
from relay import Relay, verbatim, with_own_keys
from serving_world import SIMPLE, ask, simple_world

from strongroom.errors import EvidenceError, StrongroomError, TransportError, UsageError
from strongroom.serving.client import Attester
from strongroom.serving.http import Request
from strongroom.serving.proxy import Proxy
from strongroom.serving.publication import Publication


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with simple_world(tmp_path_factory.mktemp("proxy")) as made:
        yield made


@pytest.fixture(scope="module")
def endpoint(world):
    running = world.serve(world.serve_job("simple", program=SIMPLE))
    yield running
    running.stop()


def proxied(attester):
    proxy = Proxy(attester, listen=("127.0.0.1", 0), reattest=300)
    proxy.start()
    return proxy


def asked_through(attester):
    with closing(proxied(attester)) as proxy:
        host, port = proxy.address
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=60) as client:
            return ask(client, [[1.0, 0.0]])


def test_ordinary_client_is_answered_through_the_proxy(world, endpoint):
    answer = asked_through(world.attester(endpoint))
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["data"] == [0.123]
    assert "strongroom-receipt" in answer.headers


def test_endpoint_of_another_job_is_not_asked(world, endpoint):
    job = world.analyst.submit(world.serve_job("simple", program=SIMPLE), broker=world.analyst_door())
    published = Publication.of(job.signed.statement, address=endpoint.publication.address)
    answer = asked_through(world.attester(endpoint, publication=published))
    assert answer.status_code == 502
    assert answer.json()["kind"] in {"PeerRefusedError", "ReportDataError"}
    assert "outputs" not in answer.json()


def test_endpoint_with_other_code_is_not_asked(world, endpoint):
    attester = Attester(
        endpoint.publication,
        key=world.partner.key,
        verifier=world.trust.verifier(),
        measurements=["sgx:" + "0" * 64],
    )
    answer = asked_through(attester)
    assert answer.status_code == 502
    assert answer.json()["step"] == "reference values"
    assert "expected ['sgx:000" in answer.json()["error"]


@pytest.mark.parametrize("rewrite", [verbatim, with_own_keys])
def test_man_in_the_middle_gets_no_request(world, endpoint, rewrite):
    relay = Relay(endpoint.publication.address, rewrite)
    answer = asked_through(world.attester(endpoint, address=relay.address))
    assert answer.status_code == 502
    assert not any("type" in one for one in relay.carried), "the caller spoke after the introduction"


def test_nobody_at_the_address_is_a_bad_gateway_with_a_reason(world, endpoint):
    answer = asked_through(world.attester(endpoint, address=("127.0.0.1", 1)))
    assert answer.status_code == 502
    assert "cannot reach" in answer.json()["error"]


def test_proxy_listens_for_nobody_else(world, endpoint):
    with pytest.raises(UsageError, match="loopback"):
        Proxy(world.attester(endpoint), listen=("0.0.0.0", 0), reattest=300)


def test_publication_with_another_program_is_refused(endpoint):
    with pytest.raises(EvidenceError, match="expected sha256:000"):
        endpoint.publication.expect_program("sha256:" + "0" * 64)


def test_forged_publication_is_refused(endpoint, tmp_path):
    place = tmp_path / "endpoint.json"
    place.write_bytes(endpoint.publication.encode())
    assert Publication.read(place).digest == endpoint.publication.digest
    value = json.loads(place.read_text())
    statement = json.loads(value["statement"])
    statement["payload"] = statement["payload"][:-8] + "AAAAAAA="
    value["statement"] = json.dumps(statement)
    place.write_text(json.dumps(value))
    with pytest.raises(StrongroomError):
        Publication.read(place)


class Untouched:
    """Plays the way to an endpoint: nobody is there, and whoever is refused before must not find that out."""

    def open(self):
        raise TransportError("nobody is there")


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "rebound.example:8080"},  # a page whose own name was made to mean this machine reads what it asked
        {"host": "127.0.0.1.rebound.example"},
        {"origin": "https://page.example"},  # any other page spends the caller's quota
        {"origin": "null"},
    ],
)
def test_web_page_does_not_ask_in_the_name_of_who_looks_at_it(headers):
    with closing(proxied(Untouched())) as proxy:
        host, port = proxy.address
        answer = httpx.post(f"http://{host}:{port}/v2/models/simple/infer", content=b"{}", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["reasons"]


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080"])
def test_client_of_this_machine_is_carried_by_any_of_its_names(host):
    with closing(proxied(Untouched())) as proxy:
        request = Request(method="GET", path="/v2", headers={"host": host}, body=b"")
        assert json.loads(proxy.carry(request).body)["error"] == "nobody is there"
