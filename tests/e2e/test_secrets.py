"""No password and no token in a log, and none readable in a store: searched for after all other tests."""

import base64

import pytest

from harness import PROXIES, SECRETS, Http, basic, new_password

pytestmark = pytest.mark.last

WHO = "/api/2.0/mlflow/users/current"


def forms(value):
    """A secret as it is, and as it looks inside a Basic credential, at each of the three alignments."""
    raw = value.encode()
    yield raw
    for before in range(3):
        text = base64.b64encode(b":" * before + raw).rstrip(b"=")
        # The first and last characters mix with their neighbours.
        yield text[2 if before else 0:-2][2:]


@pytest.fixture(scope="module")
def traffic(proxy):
    """Good and bad credentials in every place where one may stand."""
    person = proxy.person("careless")
    token = person.token()["token"]
    wrong = new_password()
    for authorization in (basic(person.name, token), f"Bearer {token}", basic(person.name, wrong), basic(person.name, person.password),
                          f"Bearer {wrong}", f"Unknown {wrong}", basic(wrong, wrong)):
        Http(proxy.url, authorization).get(WHO)
    for path in (f"{WHO}?password={wrong}", f"/auth/api/v1/tokens?token={token}", f"/no/such/{token}", f"/get-artifact?path={token}"):
        person.get(path)
        proxy.anonymous().get(path)
    person.post("/api/2.0/mlflow/users/create", {"username": "x", "password": wrong})
    person.patch("/api/2.0/mlflow/users/update-password", {"username": person.name, "password": wrong, "current_password": wrong})
    person.call("POST", "/auth/api/v1/tokens", data=f'{{"name": "{token}", ', headers={"Content-Type": "application/json"})
    person.call("GET", WHO, headers={"Cookie": f"session={token}", "X-MLflow-Authorization": f"Bearer {token}"})
    return person


def logs():
    return {log: log.read_bytes() for one in PROXIES for log in one.folder.glob("*.log")}


def test_no_secret_is_in_a_log(traffic):
    found = logs()
    assert found and any(traffic.name.encode() in text for text in found.values()), "the logs are the right ones"
    assert len(SECRETS) > 3
    for log, text in found.items():
        for value in SECRETS:
            for form in forms(value):
                assert len(form) > 8 and form not in text, f"{log}: {value[:6]}..."


def test_no_secret_is_readable_in_a_store(traffic):
    stores = [file for one in PROXIES for file in one.folder.glob("proxy.db*")]
    assert any(traffic.name.encode() in file.read_bytes() for file in stores), "the stores are the right ones"
    for file in stores:
        content = file.read_bytes()
        for value in SECRETS:
            assert value.encode() not in content, f"{file}: {value[:6]}..."


def test_no_secret_reaches_mlflow(traffic, mlflow_server):
    text = (mlflow_server.folder / "mlflow.log").read_bytes() + mlflow_server.database.read_bytes()
    assert len(text) > 10_000
    for value in SECRETS:
        assert value.encode() not in text


def test_the_store_is_for_its_owner_only(proxy):
    assert proxy.store.stat().st_mode & 0o077 == 0


def test_no_proxy_panicked():
    found = logs()
    assert found
    for log, text in found.items():
        assert b"panicked" not in text, log
