"""Running it: probes, metrics, logs, audit, an upstream that goes away, restarts, and the way down."""

import json
import os
import pty
import re
import select
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest
import requests

from harness import ADMIN, Http, Process, Proxy, Relay, Tls, World, basic, big_file, binary, free_port, new_password, secret, sha256, unique, wait_until

WHO = "/api/2.0/mlflow/users/current"
RUN = "/api/2.0/mlflow/runs/get"


def counter(proxy, name, **labels):
    """The sum of a counter over all series with these labels."""
    total = 0.0
    for line in proxy.probe("/metrics").text.splitlines():
        match = re.fullmatch(r"mlflow_auth_proxy_(\w+?)(?:\{(.*)\})? (\S+)", line)
        if match and match[1] == name:
            have = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
            if labels.items() <= have.items():
                total += float(match[3])
    return total


# ---- probes, metrics, logs


def test_the_probes_answer(proxy):
    assert proxy.probe("/livez").status_code == 200
    ready = proxy.probe("/readyz")
    assert ready.status_code == 200 and ready.json()["ready"] is True
    assert {check["name"] for check in ready.json()["checks"]} >= {"store", "upstream"}
    assert proxy.probe("/nothing").status_code == 404


def test_the_health_command_asks_the_running_proxy(start_proxy, relay):
    proxy = start_proxy(upstream=relay.url)
    asked = proxy.cli("health")
    assert asked.returncode == 0 and json.loads(asked.stdout)["ready"] is True, asked.stdout
    assert proxy.cli("health", "--live").stdout == "ok\n"
    assert proxy.cli("health", "--url", f"{proxy.admin_url}/readyz").stdout == asked.stdout
    relay.cut()
    wait_until(lambda: proxy.probe("/readyz").status_code == 503, 10, "not ready")
    unready = proxy.cli("health", check=False)
    assert unready.returncode == 1 and "503" in unready.stderr and "upstream" in unready.stderr, unready.stderr
    assert proxy.cli("health", "--live").returncode == 0
    proxy.stop()
    gone = proxy.cli("health", check=False)
    assert gone.returncode == 1 and "cannot be reached" in gone.stderr, gone.stderr
    # Something else listens there.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/readyz"
        late = proxy.cli("health", "--timeout", "1", "--url", url, check=False)
    assert late.returncode == 1 and "within 1 seconds" in late.stderr, late.stderr


def test_the_probes_are_not_on_the_public_listener(proxy, alice):
    for path in ("/livez", "/readyz", "/metrics", "/drain"):
        assert proxy.anonymous().get(path).status_code == 401
        assert alice.get(path).status_code == 403


def test_metrics_count_requests_denials_and_failures(proxy, alice, bob, world):
    def now():
        return (
            counter(proxy, "requests_total", operation="GetRun", status="200")
            or counter(proxy, "requests_total", operation="GetRun", status="2xx"),
            counter(proxy, "denials_total", reason="not_granted"),
            counter(proxy, "authentication_failures_total", reason="wrong_password"),
        )

    alice.get(RUN, {"run_id": world.run})
    before = now()
    for _ in range(3):
        assert alice.get(RUN, {"run_id": world.run}).status_code == 200
    for _ in range(2):
        assert bob.get(RUN, {"run_id": world.run}).status_code == 403
    assert Http(proxy.url, basic(bob.name, new_password())).get(WHO).status_code == 401
    wait_until(lambda: [b - a for a, b in zip(before, now())] == [3, 2, 1], 5, f"counted from {before}, now {now()}")


def test_metrics_name_nobody_and_nothing(proxy, alice, world):
    alice.get(RUN, {"run_id": world.run})
    text = proxy.probe("/metrics").text
    assert "mlflow_auth_proxy_requests_total" in text
    for word in (alice.name, world.run, world.model, f'"{ADMIN}"'):
        assert word not in text


def test_each_request_is_one_line_of_the_access_log(proxy, bob, world):
    """With who, what and why; never with the path, which holds ids and names."""
    for _ in range(2):
        assert bob.get(RUN, {"run_id": world.run}).status_code == 403

    def lines():
        found = [json.loads(line) for line in proxy.process.output().splitlines() if f'"user":"{bob.name}"' in line]
        return [line for line in found if "operation" in line and "status" in line]

    wait_until(lambda: len(lines()) >= 2, 5, "two lines in the access log")
    assert len(lines()) == 2
    for line in lines():
        assert (line["operation"], line["status"], line["denied"]) == ("GetRun", 403, "not_granted")
        assert line["scheme"] in ("basic", "password")
        assert line["address"] == "127.0.0.1"
        assert world.run not in json.dumps(line)


def test_the_audit_has_every_denial_and_every_change(proxy, alice, bob, world):
    assert bob.get(RUN, {"run_id": world.run}).status_code == 403
    alice.grant(bob, "experiment", world.experiment, "READ")
    made = alice.token("audited")
    assert alice.call("DELETE", f"/auth/api/v1/tokens/{made['id']}").status_code in (200, 204)

    def actions(actor):
        return [row[0] for row in proxy.rows("SELECT action FROM audit WHERE actor = ? ORDER BY id", actor)]

    wait_until(lambda: "request.denied" in actions(bob.name), 5, "the denial is audited")
    assert any("grant" in action for action in actions(alice.name)), actions(alice.name)
    assert sum("token" in action for action in actions(alice.name)) == 2, actions(alice.name)
    created = proxy.rows("SELECT actor, address FROM audit WHERE action = 'user.create' AND target LIKE ?", f"%{bob.name}%")
    assert created == [(ADMIN, "127.0.0.1")]
    given = proxy.rows("SELECT detail || target FROM audit WHERE action LIKE 'grant%' AND actor = ?", alice.name)
    assert any(world.experiment in row[0] for row in given)


# ---- an upstream that goes away


@pytest.fixture
def relay(mlflow_server):
    relay = Relay(mlflow_server.port).mend()
    yield relay
    relay.answers.set()
    relay.cut()


def test_an_upstream_that_is_down_is_503_at_once_where_nothing_waits(start_proxy, relay):
    proxy = start_proxy(upstream=relay.url, settings={"UPSTREAM__HOLD_SECONDS": "0"})
    world = World.make(proxy.person("alice"))
    alice, bob = world.owner, proxy.person("bob")
    assert alice.get(RUN, {"run_id": world.run}).status_code == 200
    relay.cut()
    wait_until(lambda: proxy.probe("/readyz").status_code == 503, 10, "not ready")
    assert proxy.probe("/livez").status_code == 200
    problems = {check["name"]: check.get("problem") for check in proxy.probe("/readyz").json()["checks"]}
    assert "Connection refused" in problems["upstream"] and not problems["store"], problems
    for method, path, more in (
        ("GET", RUN, {"params": {"run_id": world.run}}),
        ("POST", "/api/2.0/mlflow/experiments/search", {"json": {"max_results": 5}}),
        ("POST", "/api/2.0/mlflow/experiments/create", {"json": {"name": unique("down")}}),
        ("GET", f"/api/2.0/mlflow-artifacts/artifacts/{world.files[0]}", {}),
        ("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{world.files[0]}", {"data": b"x"}),
    ):
        started = time.monotonic()
        answer = alice.call(method, path, **more)
        assert answer.status_code == 503, f"{method} {path}: {answer.status_code} {answer.text}"
        assert 1 <= int(answer.headers["Retry-After"]) <= 30
        assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
        assert time.monotonic() - started < 4
        # No less strict meanwhile: what can be said without MLflow is said, and holds nothing.
        refused = bob.call(method, path, **more)
        assert refused.status_code in (403, 503) or refused.json() == {}, refused.text
        assert proxy.anonymous().call(method, path, **more).status_code == 401
    # What needs no MLflow still works.
    assert alice.get(WHO).status_code == 200
    relay.mend()
    wait_until(lambda: proxy.probe("/readyz").status_code == 200, 10, "ready again")
    assert alice.get(RUN, {"run_id": world.run}).status_code == 200


def test_a_start_without_upstream_is_not_ready_but_lives(start_proxy):
    settings = {"UPSTREAM__HOLD_SECONDS": "1"}
    proxy = start_proxy(upstream=f"http://127.0.0.1:{free_port()}", ready="/livez", settings=settings)
    assert proxy.probe("/readyz").status_code == 503
    assert proxy.admin().get("/api/2.0/mlflow/experiments/get", {"experiment_id": "0"}).status_code == 503


def test_a_download_that_breaks_off_is_no_success(start_proxy, relay):
    """A part must never pass for the whole."""
    proxy = start_proxy(upstream=relay.url)
    world = World.make(proxy.person("alice"))
    path = f"/api/2.0/mlflow-artifacts/artifacts/{world.experiment}/{world.run}/artifacts/long.bin"
    assert world.owner.call("PUT", path, data=b"x" * (64 << 20)).status_code == 200
    answer = world.owner.get(path, stream=True)
    received = len(next(answer.iter_content(1 << 20)))
    relay.cut()
    with pytest.raises(requests.RequestException):
        for block in answer.iter_content(1 << 20):
            received += len(block)
        # Without Content-Length the end is the only sign.
        raise AssertionError(f"ended well after {received} bytes")
    assert received < 64 << 20


# ---- restarts


def test_a_restart_keeps_people_tokens_and_grants(start_proxy):
    proxy = start_proxy()
    world = World.make(proxy.person("alice"))
    bob = proxy.person("bob")
    world.share(bob, "READ")
    token = bob.with_token(bob.token()["token"])
    assert proxy.stop() == 0
    # The password of the environment is for an empty store only.
    proxy.settings["BOOTSTRAP__ADMIN_PASSWORD"] = other = new_password()
    proxy.start()
    assert token.get(RUN, {"run_id": world.run}).status_code == 200
    assert world.owner.post("/api/2.0/mlflow/runs/delete", {"run_id": world.run}).status_code == 200
    assert proxy.admin().get(WHO).status_code == 200
    assert Http(proxy.url, basic(ADMIN, other)).get(WHO).status_code == 401


def test_a_creation_that_a_crash_interrupted_gets_its_owner(start_proxy, relay):
    """The proxy dies after MLflow did it and before it could note who owns it."""
    proxy = start_proxy(upstream=relay.url)
    alice, bob = proxy.person("alice"), proxy.person("bob")
    name = unique("orphan")
    search = {"max_results": 5, "filter": f"name = '{name}'"}
    alice.get(WHO)
    relay.answers.clear()
    threading.Thread(
        target=lambda: pytest.raises(requests.RequestException, alice.post, "/api/2.0/mlflow/experiments/create", {"name": name}),
        daemon=True,
    ).start()
    direct = f"http://127.0.0.1:{relay.target}/api/2.0/mlflow/experiments/search"
    wait_until(lambda: requests.post(direct, json=search, timeout=10).json().get("experiments"), 10, "MLflow made it")
    proxy.kill()
    relay.answers.set()
    relay.cut()
    relay.mend()
    proxy.start()

    def found():
        return alice.ok("POST", "/api/2.0/mlflow/experiments/search", search).get("experiments")

    (experiment,) = wait_until(found, 10, "its creator owns it")
    assert alice.post("/api/2.0/mlflow/experiments/delete", {"experiment_id": experiment["experiment_id"]}).status_code == 200
    assert not bob.ok("POST", "/api/2.0/mlflow/experiments/search", search).get("experiments")


# ---- the way down


@pytest.fixture
def slow_download(start_proxy, tmp_path):
    """A proxy, and a download through it that takes a few seconds because its client is slow."""
    proxy = start_proxy({"SERVER__DRAIN_TIMEOUT_SECONDS": "30"})
    world = World.make(proxy.person("alice"))
    path = f"/api/2.0/mlflow-artifacts/artifacts/{world.experiment}/{world.run}/artifacts/slow.bin"
    digest = big_file(tmp_path / "slow.bin", 64)
    with open(tmp_path / "slow.bin", "rb") as file:
        assert world.owner.call("PUT", path, data=file).status_code == 200
    answer = world.owner.get(path, stream=True)
    assert answer.status_code == 200
    return proxy, answer, digest


def test_sigterm_lets_a_slow_download_finish(slow_download, tmp_path):
    proxy, answer, digest = slow_download
    proxy.process.child.send_signal(signal.SIGTERM)
    wait_until(lambda: proxy.probe("/readyz").status_code == 503, 5, "unready first")
    wait_until(lambda: refuses(proxy.port), 5, "no new connections")
    with open(tmp_path / "got.bin", "wb") as file:
        for block in answer.iter_content(2 << 20):
            file.write(block)
            time.sleep(0.05)
    assert sha256(tmp_path / "got.bin") == digest
    assert proxy.process.child.wait(10) == 0


def test_a_second_signal_ends_it_at_once(slow_download):
    proxy, answer, _ = slow_download
    proxy.process.child.send_signal(signal.SIGTERM)
    wait_until(lambda: proxy.probe("/readyz").status_code == 503, 5, "draining")
    time.sleep(0.3)
    assert proxy.process.child.poll() is None, "it waits for the download"
    proxy.process.child.send_signal(signal.SIGTERM)
    code = proxy.process.child.wait(5)
    assert code != 0
    answer.close()


def test_the_drain_is_bounded(start_proxy, tmp_path):
    proxy = start_proxy({"SERVER__DRAIN_TIMEOUT_SECONDS": "1"})
    world = World.make(proxy.person("alice"))
    path = f"/api/2.0/mlflow-artifacts/artifacts/{world.experiment}/{world.run}/artifacts/slow.bin"
    assert world.owner.call("PUT", path, data=b"x" * (64 << 20)).status_code == 200
    answer = world.owner.get(path, stream=True)
    started = time.monotonic()
    proxy.process.child.send_signal(signal.SIGTERM)
    proxy.process.child.wait(10)
    assert 0.8 < time.monotonic() - started < 8
    answer.close()


def test_an_idle_proxy_ends_at_once(start_proxy):
    proxy = start_proxy()
    idle = socket.create_connection(("127.0.0.1", proxy.port))
    kept = proxy.admin()
    assert kept.get(WHO).status_code == 200
    started = time.monotonic()
    for number in (signal.SIGINT,):
        proxy.process.child.send_signal(number)
    assert proxy.process.child.wait(10) == 0
    assert time.monotonic() - started < 3
    idle.close()


def refuses(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


def test_a_hangup_ends_nothing(start_proxy):
    proxy = start_proxy()
    proxy.process.child.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert proxy.admin().get(WHO).status_code == 200


# ---- TLS


def test_the_certificate_is_checked_and_http_2_is_offered(tls_proxy):
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(tls_proxy.url + "/health", timeout=5)
    assert requests.get(tls_proxy.url + "/health", timeout=5, verify=tls_proxy.verify).text == "OK"
    context = ssl.create_default_context(cafile=tls_proxy.verify)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection(("127.0.0.1", tls_proxy.port)) as plain:
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            assert connection.selected_alpn_protocol() == "h2"
            assert connection.version() == "TLSv1.3"


def test_plain_http_on_the_tls_port_is_closed(tls_proxy):
    with pytest.raises(requests.RequestException):
        requests.get(tls_proxy.url.replace("https", "http") + "/health", timeout=5)
    assert tls_proxy.anonymous().get("/health").status_code == 200


def test_a_renewed_certificate_is_served_without_a_restart(mlflow_server, tmp_path):
    tls, renewed = Tls.make(tmp_path), Tls.make(tmp_path / "renewed", days=90)
    first = tls.cert.read_text()
    proxy = Proxy(tmp_path / "proxy", mlflow_server.url, tls=tls).start()

    def days_left():
        return (proxy.counted("tls_certificate_not_after_seconds") - time.time()) / 86400

    def served():
        return ssl.get_server_certificate(("127.0.0.1", proxy.port)).strip()

    def take(file, now):
        # As renewers do it: whoever reads sees the old or the new one, never a half.
        staged = tmp_path / "staged"
        staged.write_text(now)
        staged.replace(file)

    try:
        connected = requests.Session()
        connected.trust_env = False
        connected.verify = str(tmp_path / "first.pem")
        (tmp_path / "first.pem").write_text(first)
        assert connected.get(proxy.url + "/health", timeout=5).ok
        assert served() == first.strip()
        wait_until(lambda: 1 < days_left() < 3, 10, "two days")
        assert proxy.counted("tls_certificate_loaded") == 1

        take(tls.cert, renewed.cert.read_text())
        take(tls.key, renewed.key.read_text())
        proxy.process.child.send_signal(signal.SIGHUP)
        wait_until(lambda: served() == renewed.cert.read_text().strip(), 20, "the new one is served")
        wait_until(lambda: 89 < days_left() < 91, 10, "and its end told")
        assert connected.get(proxy.url + "/health", timeout=5).ok, "who was connected stays so"

        take(tls.cert, first)
        wait_until(lambda: proxy.counted("tls_certificate_loaded") == 0, 20, "a key that does not fit is noticed")
        time.sleep(6)
        assert served() == renewed.cert.read_text().strip()
        assert proxy.process.output().count("do not work together") == 1, proxy.process.output()
        take(tls.cert, renewed.cert.read_text())
        wait_until(lambda: proxy.counted("tls_certificate_loaded") == 1, 20, "and that it fits again")
    finally:
        proxy.stop()


# ---- refusing to start


def refuses_to_start(tmp_path, settings):
    proxy = Proxy(tmp_path / unique("refused"), f"http://127.0.0.1:{free_port()}", settings=settings)
    proxy.process = Process([binary(), "serve"], proxy.folder / "proxy.log", proxy.environment, proxy.folder)
    try:
        return proxy.process.child.wait(15), proxy.process.output()
    finally:
        proxy.stop()


def test_every_problem_of_the_configuration_is_told_at_once(tmp_path):
    code, said = refuses_to_start(tmp_path, {
        "UPSTREAM__URL": "not a url", "SERVER__LISTEN": "nowhere", "AUTHZ__DEFAULT_PERMISSION": "SOMETIMES", "NO__SUCH_KEY": "1",
    })
    assert code == 2, said
    for key in ("upstream.url", "server.listen", "authz.default_permission", "no"):
        assert key in said
    assert "panicked" not in said


def test_plain_http_for_others_to_reach_is_refused(tmp_path):
    code, said = refuses_to_start(tmp_path, {"SERVER__LISTEN": f"0.0.0.0:{free_port()}"})
    assert code == 2, said
    assert "allow_plain_http" in said


def test_a_short_first_password_is_refused_and_not_shown(tmp_path):
    code, said = refuses_to_start(tmp_path, {"BOOTSTRAP__ADMIN_PASSWORD": "elevenchars"})
    assert code == 2, said
    assert "12" in said and "elevenchars" not in said


def test_the_first_password_is_shown_to_a_person_only(mlflow_server, tmp_path):
    """Without one in the configuration, one is made: shown on the terminal once, and in no log."""
    made = Proxy(tmp_path / "first", mlflow_server.url)
    del made.settings["BOOTSTRAP__ADMIN_PASSWORD"]
    terminal, inside = pty.openpty()
    with open(tmp_path / "stdout.log", "wb") as log:
        child = subprocess.Popen([binary(), "serve"], stdin=subprocess.DEVNULL, stdout=log, stderr=inside,
                                 env=made.environment, cwd=made.folder, start_new_session=True)
    os.close(inside)
    try:
        shown = ""
        while not (found := re.search(r"^  password  (\S+)\s", shown, re.MULTILINE)):
            assert select.select([terminal], [], [], 20)[0], f"nothing more after: {shown}"
            shown += os.read(terminal, 4096).decode()
        password = secret(found[1])
        assert len(password) >= 12
        wait_until(lambda: not refuses(made.port), 10, "it listens")
        assert Http(made.url, basic(ADMIN, password)).get(WHO).status_code == 200
    finally:
        child.terminate()
        child.wait(15)
        os.close(terminal)
    log = (tmp_path / "stdout.log").read_text()
    assert '"operation"' in log and password not in log
    # Without a terminal it is shown to nobody, and the log says what to do.
    blind = Proxy(tmp_path / "blind", mlflow_server.url)
    del blind.settings["BOOTSTRAP__ADMIN_PASSWORD"]
    try:
        blind.start()
        wait_until(lambda: "user set-password" in blind.process.output(), 5, "the log says what to do")
        new = new_password()
        blind.cli("user", "set-password", ADMIN, "--password-stdin", stdin=new + "\n")
        assert Http(blind.url, basic(ADMIN, new)).get(WHO).status_code == 200
    finally:
        blind.stop()


def test_a_taken_port_is_told(tmp_path, proxy):
    code, said = refuses_to_start(tmp_path, {"SERVER__LISTEN": f"127.0.0.1:{proxy.port}", "SERVER__PUBLIC_URL": proxy.url})
    assert code not in (0, None)
    assert "server.listen" in said and "panicked" not in said


def test_a_missing_certificate_is_told(tmp_path):
    tls = Tls.make(tmp_path)
    subprocess.run(["openssl", "version"], check=True, capture_output=True)
    code, said = refuses_to_start(tmp_path, {"SERVER__TLS__CERT": str(tls.cert), "SERVER__TLS__KEY": str(tmp_path / "none.pem")})
    assert code not in (0, None)
    assert "none.pem" in said or "server.tls.key" in said
