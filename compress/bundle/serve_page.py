"""Serves the page of this bundle on this machine alone: python3 web/serve.py [PORT].

It needs Python alone. Any other server of files does, too; browsers only refuse to load a page's
modules from file://.
"""

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent


class Files(SimpleHTTPRequestHandler):
    """The files of the bundle, with the types that browsers ask for."""

    extensions_map = {  # noqa: RUF012 - as in the class above
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the page says itself what is missing."""


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(Files, directory=str(FOLDER)))
    print(f"http://127.0.0.1:{server.server_port}/web/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
