"""The same model behind a server as people run them: an ASGI application under Granian (Rust's hyper and rustls).

``python -m benchmarks._granian_serving PROGRAM MODEL KEY CERTIFICATE PORT`` serves over TLS until it is ended. There
is no batching: every request is computed as it comes, in the event loop, which on one core is the fastest way.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import uvloop
import xgboost
from granian.server.embed import Server

from strongroom.serving.tensors import encode_answer, parse_request


def main(program: Path, model: Path, key: Path, certificate: Path, port: int) -> None:
    module = types.ModuleType("program")
    exec(compile(program.read_bytes(), "program.py", "exec"), module.__dict__)
    booster = xgboost.Booster(model_file=str(model))

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        parts: list[bytes] = []
        more = True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = bool(message.get("more_body"))
        asked = parse_request(b"".join(parts))
        body, _ = encode_answer(module.predict(booster, asked.inputs), asked, model="trees", version="1")
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    server = Server(
        application,
        address="127.0.0.1",
        port=port,
        interface="asgi",
        ssl_key=key,
        ssl_cert=certificate,
        log_enabled=False,
    )
    uvloop.run(server.serve())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]), port=int(sys.argv[5]))
