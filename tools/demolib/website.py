"""The application server: one folder over HTTP.

    python -m tools.demolib.website ADDRESS PORT FOLDER

Python's own `-m http.server` asks the DNS for its own name first, which takes ten seconds where
there is none.
"""

from __future__ import annotations

import functools
import http.server
import socketserver
import sys


class Website(socketserver.ThreadingTCPServer):
    """Serves one connection a thread."""

    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    """Serve until the process is ended."""
    address, port, folder = sys.argv[1:]
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with Website((address, int(port)), handler) as website:
        print(f"serving {folder} on {address} port {port}", flush=True)
        website.serve_forever()


if __name__ == "__main__":
    main()
