"""Serves parts of files as GDAL asks for them over HTTP: python range_server.py FOLDER; it prints its port.

Where there is a file NAME.fail with a number beside a file NAME, so many requests for its bytes lose their connection.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Ranges(BaseHTTPRequestHandler):
    """Answers HEAD, and GET with a range of bytes."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        if self.is_lost():
            self.close_connection = True
            return
        data = self.answer()
        self.wfile.write(data)

    def is_lost(self):
        """Whether the connection is to break, as often as NAME.fail says."""
        file = Path(sys.argv[1]) / (self.path.split("?")[0].lstrip("/") + ".fail")
        left = int(file.read_text()) if file.is_file() else 0
        if left:
            file.write_text(str(left - 1))
        return bool(left)

    def answer(self):
        """Send the headers; the bytes that were asked for come back."""
        file = Path(sys.argv[1]) / self.path.split("?")[0].lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return b""
        data = file.read_bytes()
        start, end = 0, len(data)
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last) + 1, len(data))
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.end_headers()
        return data[start:end]

    def log_message(self, *_):
        """Say nothing."""


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
