"""The same program, batching and HTTP code as an endpoint's, without attestation, rules, receipts and ledger.

``python -m benchmarks._plain_serving PROGRAM MODEL PEM`` prints two ports, of HTTP on a bare socket and of HTTPS by
Python's own ssl module (TLS 1.3) under the key and certificate in PEM, and serves until it is ended.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import types
from pathlib import Path

import xgboost

from strongroom.serving.batching import Batcher, compute
from strongroom.serving.connections import Allowance
from strongroom.serving.http import Request, Response, SocketStream, serve_http
from strongroom.serving.tensors import encode_answer, parse_request


def main(program: Path, model: Path, pem: Path) -> None:
    module = types.ModuleType("program")
    exec(compile(program.read_bytes(), "program.py", "exec"), module.__dict__)
    booster = xgboost.Booster(model_file=str(model))
    batcher = Batcher()

    def handle(request: Request) -> Response:
        asked = parse_request(request.body)
        outputs, version = batcher.ask(asked.inputs, rows=asked.rows)
        return Response(status=200, body=encode_answer(outputs, asked, model="trees", version=version)[0])

    def answer() -> None:
        while True:
            if batch := batcher.take():
                compute(batch, lambda inputs, _rows: (module.predict(booster, inputs), "1"))

    def count(busy: bool) -> None:
        (batcher.expect if busy else batcher.drop)()

    threading.Thread(target=answer, daemon=True).start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(pem)

    def serve(plain: socket.socket, *, secure: bool) -> None:
        line = context.wrap_socket(plain, server_side=True) if secure else plain
        serve_http(SocketStream(line), handle, allowance=Allowance(), busy=count)

    def accept(listening: socket.socket, *, secure: bool) -> None:
        while True:
            plain, _ = listening.accept()
            threading.Thread(target=serve, args=(plain,), kwargs={"secure": secure}, daemon=True).start()

    doors = [socket.create_server(("127.0.0.1", 0), backlog=64) for _ in range(2)]
    sys.stdout.write(f"{doors[0].getsockname()[1]} {doors[1].getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=accept, args=(doors[0],), kwargs={"secure": False}, daemon=True).start()
    accept(doors[1], secure=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
