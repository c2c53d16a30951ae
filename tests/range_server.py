"""Serves parts of files as GDAL asks for them over HTTP: python range_server.py FOLDER; it prints its port."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Ranges(BaseHTTPRequestHandler):
    """Answers HEAD, and GET with a range of bytes."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        data = self.answer()
        self.wfile.write(data)

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
