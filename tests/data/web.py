"""A real web server on this machine that knows ranges, breaks off, lies and refuses."""

import contextlib
import http.server
import re
import threading
import time

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@contextlib.contextmanager
def serve(*, content, ranges=True, cut_at=(), status=(), pause=0.0, length=True):
    """(address, list of each request's Range header). `cut_at`: bytes after which the answers break off, in turn; `status`:
    codes that come before anything else."""
    asked, cuts, codes = [], list(cut_at), list(status)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("Range"))
            if codes:
                self.send_error(codes.pop(0))
                return
            first = int(re.match(r"bytes=(\d+)-", asked[-1])[1]) if asked[-1] and ranges else 0
            if first >= len(content) > 0 and first:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            if length:
                self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            body = content[first:]
            body = body[: cuts.pop(0)] if cuts else body
            with contextlib.suppress(OSError):
                for at in range(0, len(body), 200_000):
                    self.wfile.write(body[at : at + 200_000])
                    time.sleep(pause)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/some/set.npz", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
