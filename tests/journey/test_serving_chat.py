"""A small language model answers an ordinary OpenAI client through the proxy, whole and streamed, until it is ended."""

import codecs
import contextlib
import io
import json
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from serving_world import serving_world

from strongroom.serving.proxy import Proxy

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "chat"
PROGRAM = (EXAMPLE / "program.py").read_text()
SLOW = PROGRAM.replace("        yield letter\n", "        __import__('time').sleep(0.03)\n        yield letter\n")


def proverbs():
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    return codecs.decode(this.s, "rot13")[:420]


def trained():
    sys.path.insert(0, str(EXAMPLE))
    try:
        import train
    finally:
        sys.path.remove(str(EXAMPLE))
    return json.dumps(train.train(proverbs())).encode()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with serving_world(
        tmp_path_factory.mktemp("chat"),
        owners={"publisher": "proverbs-model"},
        models={"proverbs-model": {"weights.json": trained()}},
        programs=(PROGRAM.encode(), SLOW.encode()),
        kinds=("text",),
        tokens=40,
    ) as made:
        yield made


@contextlib.contextmanager
def proxied(world, endpoint):
    with closing(Proxy(world.attester(endpoint), listen=("127.0.0.1", 0), reattest=300)) as proxy:
        proxy.start()
        yield f"http://{proxy.address[0]}:{proxy.address[1]}"


@pytest.fixture(scope="module")
def url(world):
    endpoint = world.serve(world.example_job("chat", callers={"writer": "partner"}))
    with proxied(world, endpoint) as address:
        yield address
    endpoint.stop()


def asked(url, **more):
    body = {"model": "proverbs", "messages": [{"role": "user", "content": "Although practicality"}], **more}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def test_model_completes_what_it_learnt(url):
    answer = asked(url)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == " beats purity."
    assert "strongroom-receipt" in answer.headers


def test_stream_comes_piece_by_piece_and_ends_with_its_receipt(url):
    answer = asked(url, stream=True)
    assert answer.headers["content-type"] == "text/event-stream"
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    pieces = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert "".join(pieces) == " beats purity."
    assert max(map(len, pieces)) == 1
    assert ": strongroom-receipt " in answer.text


def test_no_answer_is_longer_than_the_owner_permits(url):
    long = asked(url, messages=[{"role": "user", "content": "Special cases aren't special enough to"}], max_tokens=1000)
    assert len(long.json()["choices"][0]["message"]["content"]) <= 40
    short = asked(url, max_tokens=3).json()["choices"][0]
    assert (short["message"]["content"], short["finish_reason"]) == (" be", "length")


def test_what_is_no_request_is_refused_with_a_reason(url):
    assert asked(url, messages=[]).status_code == 400
    assert asked(url, model="other").json()["hint"] == "the model is proverbs"
    assert asked(url, max_tokens=0).status_code == 400
    answer = httpx.post(f"{url}/v2/models/proverbs/infer", content=b"{}", timeout=60)
    assert answer.status_code == 400
    assert httpx.get(f"{url}/v2/models/other", timeout=60).status_code == 404


def test_openai_client_talks_to_it(url):
    openai = pytest.importorskip("openai", reason="requirements-dev.lock holds it")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == ["proverbs"]
        messages = [{"role": "user", "content": "Although practicality"}]
        whole = client.chat.completions.create(model="proverbs", messages=messages)
        assert whole.choices[0].message.content == " beats purity."
        stream = client.chat.completions.create(model="proverbs", messages=messages, stream=True)
        assert "".join(event.choices[0].delta.content or "" for event in stream) == " beats purity."


def test_answer_that_was_begun_is_finished_before_the_endpoint_ends(world):
    endpoint = world.serve(world.serve_job("slow", program=SLOW))
    heard = []
    with proxied(world, endpoint) as address:
        body = {"messages": [{"role": "user", "content": "Although practicality"}], "stream": True}

        def ask():
            with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as answer:
                heard.extend(answer.iter_lines())  # one by one, as they come

        thread = threading.Thread(target=ask)
        thread.start()
        until = time.monotonic() + 30
        while len(heard) < 4 and time.monotonic() < until:
            time.sleep(0.01)
        endpoint.stop()
        thread.join(30)
    assert heard[-2:] == ["data: [DONE]", ""]
    job = endpoint.publication.digest.hex()[:32]
    accounts = [one.facts for one in world.entries("answers") if one.facts["job"] == job]  # another endpoint serves too
    assert sum(one["closed"]["count"] for one in accounts if "closed" in one) == 1
    assert "opened" not in accounts[-1]
