"""moto's S3 server as a process of its own: prints its address, and writes a line for every PUT into the file of its first argument."""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


def main(log: str) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = DomainDispatcherApplication(create_backend_app)
    one_at_a_time = threading.Lock()  # moto checks and then writes, without a lock: this gives it the atomicity that S3 promises

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        conditional = "HTTP_IF_NONE_MATCH" in environ
        if environ["REQUEST_METHOD"] == "PUT":
            with open(log, "a") as out:
                out.write(f"{environ['PATH_INFO']}\n")
        if conditional:
            with one_at_a_time:
                return moto(environ, start_response)
        return moto(environ, start_response)

    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
