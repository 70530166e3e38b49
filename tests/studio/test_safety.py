"""Strangers get nothing: no token, a foreign Host or Origin, a path, a body too large."""

import re
import socket
import time

import pytest

from fromnoise.studio.safety import HEADERS


def test_the_printed_address_is_exchanged_for_a_cookie(studio):
    assert re.fullmatch(rf"Open http://127.0.0.1:{studio.port}/\?token=[\w-]{{43}}\n", studio.line)
    answer = studio.get(f"/?token={studio.token}", cookie="")
    cookie = answer.headers["set-cookie"]
    assert re.match(rf"fromnoise-studio-{studio.port}=[\w-]{{43}};", cookie)
    assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
    assert studio.token not in cookie
    assert studio.token not in answer.text
    assert "<h1>Runs</h1>" in studio.get("/").text


@pytest.mark.parametrize("path", ["/", "/events", "/jobs", "/static/make.js", "/runs/abc/results"])
def test_without_the_cookie_there_is_nothing(studio, path):
    name = studio.cookie.partition("=")[0]
    for cookie in ("", f"{name}=", f"{name}=wrong", f"{name}={studio.token}", "=;=", "é=1"):
        answer = studio.get(path, cookie=cookie)
        assert answer.status == 403, cookie
        assert answer.json == {"error": "Open the address that the terminal shows."}


@pytest.mark.parametrize("token", ["", "wrong", "%00", "é", "x" * 5000])
def test_a_wrong_token_is_refused(studio, token):
    answer = studio.get(f"/?token={token.encode().hex() if token == 'é' else token}", cookie="")
    assert answer.status == 403
    assert answer.json == {"error": "The token is wrong. Open the printed address."}
    assert "set-cookie" not in answer.headers


FOREIGN = ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example"]
FOREIGN += ["8.8.8.8", "", "user@127.0.0.1", "127.0.0.1/evil", "[::1", "0.0.0.0"]


@pytest.mark.parametrize("host", FOREIGN)
def test_a_foreign_host_is_refused(studio, host):
    answer = studio.get("/", host=host)
    assert answer.status == 421, host
    assert "set-cookie" not in studio.get(f"/?token={studio.token}", host=host).headers


def test_names_of_this_machine_and_tunnels_are_known(studio):
    for host in ("localhost", "LOCALHOST:9999", f"127.0.0.1:{studio.port}", "[::1]:9000"):
        assert studio.get("/", host=host).status == 200, host


ORIGINS = ["http://evil.example", "null", "https://127.0.0.1:PORT", "http://127.0.0.1:1"]
ORIGINS += ["http://127.0.0.1", "http://127.0.0.1:PORT.evil.example", "", "file://"]


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_foreign_origin_is_refused(studio, origin):
    origin = origin.replace("PORT", str(studio.port))
    for method, path in (("POST", "/runs/abc/make"), ("DELETE", "/jobs/abc"), ("GET", "/")):
        assert studio.call(method, path, {}, origin=origin).status == 403, (method, origin)
    own = f"http://127.0.0.1:{studio.port}"
    assert studio.call("POST", "/runs/abc/make", {}, origin=own).status == 404


def test_another_page_of_the_browser_is_refused(studio):
    for site in ("cross-site", "same-site"):
        assert studio.get("/jobs", sec_fetch_site=site).status == 403
        entered = studio.get(f"/?token={studio.token}", sec_fetch_site=site)
        assert entered.status == 200  # a link in another page
    assert studio.get("/jobs", sec_fetch_site="same-origin").status == 200


def test_every_answer_has_the_headers(studio):
    for path in ("/", "/jobs", "/static/make.js", "/nowhere", "/report.css"):
        headers = studio.get(path).headers
        for name, value in HEADERS.items():
            if name != "Cache-Control":
                assert headers[name.lower()] == value, (path, name)
    assert "server" not in headers


PATHS = ["/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/report.css/../x"]
PATHS += ["/runs/..", "/runs/%2e%2e/picture", "/runs/..%2f..%2fetc/results", "/etc/passwd"]
PATHS += ["/runs/RUN/results/..%2f..%2frecipe.yaml/0", "/runs/RUN/results/../../recipe.yaml"]
PATHS += ["/runs/RUN/results/20260101-000000-abcdef/0", "/runs/%00/results"]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out(studio, path):
    answer = studio.get(path.replace("RUN", studio.run))
    assert answer.status == 404
    assert "Traceback" not in answer.text


def test_a_wrong_body_is_one_sentence(studio):
    run, before = studio.run, studio.get("/jobs").json
    for body, said in (
        (b"no json", "The request is not JSON. Reload the page."),
        (b"[" * 10**5, "The request is not JSON. Reload the page."),
        (b" " * (2**20 + 1), "The request is too large. Send less than 1 MiB."),
        ([], "has no keys"),
        ({"stesp": 5}, "unknown key stesp; did you mean steps?"),
        ({"steps": 0}, "steps = 0 is too small. Give at least 1."),
        ({"steps": "x"}, "steps = 'x' is not a whole number. Give one, as in 5."),
        ({"seeds": "5-1"}, "--seeds '5-1': 5-1 runs backwards. Write 0-63, or 0,5."),
        ({"seeds": "0-5000"}, "there are 5,001 seeds. Give at most 1,024, or use the"),
        ({"settings": "'"}, "cannot be split"),
    ):
        answer = studio.post(f"/runs/{run}/make", body)
        assert answer.status in (400, 413), body
        assert said in answer.json["error"]
    assert studio.get("/jobs").json == before


def test_an_unknown_page_says_where_to_go(studio):
    answer = studio.get("/runs/0123456789ab", accept="text/html")
    assert answer.status == 404
    assert "This run does not exist. Go back to the start page." in answer.text
    problem = {"error": "This job does not exist. Reload the page."}
    assert studio.call("DELETE", "/jobs/x").json == problem


def test_a_port_in_use_gives_the_next_one(start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        served = start(tmp_path, "--port", port)
        assert port < served.port <= port + 50
        _, said = served.stop()
    assert f"Port {port} is in use. Using port {served.port}." in said


def test_other_machines_connect_by_address_or_name_alone(start, tmp_path):
    served = start(tmp_path, "--host", "0.0.0.0", "--port", 0)
    assert served.line.startswith(f"Open http://{socket.gethostname()}:{served.port}/?token=")
    for host in ("192.168.1.7:1", "[fe80::1]", socket.gethostname(), "localhost"):
        assert served.get("/", host=host).status == 200, host
    for host in ("evil.example", f"{socket.gethostname()}.evil.example", "1.2.3.4.evil.example"):
        assert served.get("/", host=host).status == 421, host
    assert "The connection is not encrypted" in served.stop()[1]


def test_a_folder_or_host_that_is_not_there_is_one_line(start, tmp_path):
    for arguments, said in (
        ((tmp_path / "no", "--port", 0), "is not a folder. Give an existing folder."),
        ((tmp_path, "--host", "no.such.invalid"), "is unknown. Give an address of this machine."),
        ((tmp_path, "--host", "8.8.8.8"), "--host 8.8.8.8"),
    ):
        served = start(*arguments)
        assert served.line == ""
        assert served.process.wait(60) == 2
        lines = served.process.stderr.read().splitlines()
        assert len(lines) == 1
        assert said in lines[0]


def test_ctrl_c_ends_the_server_despite_open_streams(start, tmp_path):
    served = start(tmp_path)
    streams = [served.events() for _ in range(3)]
    assert [next(stream)[1] for stream in streams] == ["reload"] * 3  # of no event that it knows
    seconds, said = served.stop()
    assert seconds < 10  # 2 s on a machine that is not busy; the streams would never end
    assert "Traceback" not in said


def test_the_server_starts_without_torch(start, tmp_path):
    started = time.monotonic()
    served = start(tmp_path)
    assert "There is no run in this folder yet." in served.get("/").text
    assert time.monotonic() - started < 30  # 3 s on a machine that is not busy
    with open(f"/proc/{served.process.pid}/maps") as maps:
        libraries = maps.read()
    assert "libtorch" not in libraries
    assert "numpy" not in libraries
