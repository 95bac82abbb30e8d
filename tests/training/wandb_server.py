"""A server that W&B's client can log to: it accepts every request and counts the rows that arrive."""

import gzip
import http.server
import json
import threading


class WandbServer:
    """Listen on a port of 127.0.0.1 until `stop`; `rows` counts the history rows that have arrived."""

    def __init__(self):
        self.rows: list[dict] = []
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Stop to answer requests."""
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def _handler(server) -> type:  # noqa: N805  the handler's own self stands inside
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

            def _answer(self, content: dict) -> None:
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_PUT(self):
                self._body()
                self._answer({})

            def do_POST(self):
                body = self._body()
                if self.path.endswith("/file_stream"):
                    lines = json.loads(body).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
                    server.rows += [json.loads(line) for line in lines]
                    self._answer({"exitcode": None, "limits": {}})
                elif self.path.endswith("/graphql"):
                    asked = json.loads(body)
                    self._answer({"data": answer(asked["query"], asked.get("variables") or {}, server.url)})
                else:
                    self._answer({})

        return Handler


def answer(query: str, given: dict, url: str) -> dict:
    """Return the data that a query of the client asks for."""
    if "upsertBucket" in query:
        project = {"id": "p", "name": given.get("project"), "entity": {"id": "e", "name": "me"}}
        bucket = {"id": "b", "name": given.get("name"), "displayName": given.get("displayName"), "description": "",
                  "config": "{}", "sweepName": None, "historyLineCount": 0, "project": project}  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    if "createRunFiles" in query:
        files = [{"name": name, "uploadUrl": f"{url}/upload/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
    if "viewer" in query.lower():
        viewer = {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer, "serverInfo": {"cliVersionInfo": None, "features": []}}
    return {"model": None, "entity": None, "serverInfo": {"features": [], "cliVersionInfo": {}}}
