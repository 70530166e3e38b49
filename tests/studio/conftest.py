"""A real server in a process of its own, in a folder with a real run, and a client of it."""

import copy
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

import fromnoise
from fromnoise.studio.runs import id_of

pytest.importorskip("starlette", reason="pip install -e '.[studio]'")
pytest.importorskip("uvicorn", reason="pip install -e '.[studio]'")
PATIENCE = 120  # seconds: a busy machine is no failure


class Answer(NamedTuple):
    """What the server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class Studio:
    """A server, and a client that has its cookie."""

    def __init__(self, folder: Path, *arguments: object, **environment: str) -> None:
        command = [sys.executable, "-m", "fromnoise", "studio", str(folder)]
        self.folder, pipe = folder, subprocess.PIPE
        self.process = subprocess.Popen(
            [*command, *map(str, arguments or ("--port", 0))],
            stdout=pipe,
            stderr=pipe,
            text=True,
            env={**os.environ, **environment},
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.url = self.line.split()[-1] if self.line else ""
        parts = urlsplit(self.url)
        self.port, self.token = parts.port, parts.query.removeprefix("token=")
        self.cookie = ""
        if self.url:
            self.cookie = self.call("GET", f"/?token={self.token}").headers["set-cookie"]
            self.cookie = self.cookie.partition(";")[0]

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request and return the answer. body: JSON, or bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        sent = {"accept": "application/json", "cookie": self.cookie} | named
        connection.request(method, path, content, sent)
        answer = connection.getresponse()
        found = {key.lower(): value for key, value in answer.getheaders()}
        result = Answer(answer.status, found, answer.read())
        connection.close()
        return result

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any) -> Answer:
        return self.call("POST", path, body)

    def events(self, after: str = "") -> Iterator[tuple[str, str, Any]]:
        """Yield the id, the name and the content of each event."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", f"/events?after={after}", headers={"cookie": self.cookie})
        answer, event = connection.getresponse(), {}
        try:
            while line := answer.readline().decode():
                key, _, value = line.rstrip("\n").partition(": ")
                if key:
                    event[key] = value
                elif event.get("event"):
                    yield event.get("id", ""), event["event"], json.loads(event["data"])
                    event = {}
        finally:
            connection.close()

    def ended(self, job: str) -> dict[str, Any]:
        """Wait for the end of a job, and return it."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for found in self.get("/jobs").json:
                if found["id"] == job and found["state"] not in ("waiting", "running"):
                    return found
            time.sleep(0.05)
        raise AssertionError(f"{job} does not end")

    @property
    def run(self) -> str:
        """Return the id of the run digits."""
        return id_of(self.folder / "runs" / "digits")

    @property
    def runs(self) -> list[str]:
        """Return the ids of the runs, as the start page has them."""
        page = self.get("/").text
        found = [part.partition('"')[0] for part in page.split('<h2 class="small"><a href="/runs/')]
        return found[1:]

    def stop(self, number: int = signal.SIGINT) -> tuple[float, str]:
        """End the server by a signal; return the seconds it took and its standard error."""
        started = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=PATIENCE)
        return time.monotonic() - started, said


@pytest.fixture(scope="session")
def labelled_run(tmp_path_factory, tiny_tree) -> Path:
    """A run of digits with labels. Not to be written to."""
    tree = copy.deepcopy(tiny_tree) | {"data": {"source": "digits", "labels": True}}
    tree["training"] |= {"preview_every": 3}
    return fromnoise.train(tree, out=tmp_path_factory.mktemp("labelled") / "digits").folder


@pytest.fixture
def start(request) -> Any:
    """start(folder, *arguments): a server that ends with the test."""
    started = []

    def call(folder: Path, *arguments: object, **environment: str) -> Studio:
        started.append(Studio(folder, *arguments, **environment))
        return started[-1]

    yield call
    for each in started:
        each.process.kill()
        each.process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="session")
def home(tmp_path_factory, labelled_run) -> Path:
    """A folder with runs/digits, which tests may add to."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(labelled_run, folder / "runs" / "digits")
    return folder


@pytest.fixture(scope="session")
def studio(home) -> Iterator[Studio]:
    """A server in `home`."""
    served = Studio(home)
    yield served
    served.stop()
