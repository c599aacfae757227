"""The same program and the same HTTP code as an endpoint's, on a plain socket: no attestation, no rules, no ledger.

``python -m benchmarks._plain_serving PROGRAM MODEL`` prints its port and serves until it is ended.
"""

from __future__ import annotations

import socket
import sys
import threading
import types
from pathlib import Path

import xgboost

from strongroom.serving.batching import Batcher, compute
from strongroom.serving.http import Request, Response, SocketStream, serve_http
from strongroom.serving.tensors import encode_answer, parse_request


def main(program: Path, model: Path) -> None:
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
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    while True:
        plain, _ = listening.accept()
        threading.Thread(
            target=serve_http, args=(SocketStream(plain), handle), kwargs={"busy": count}, daemon=True
        ).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
