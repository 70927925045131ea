"""examples/keycloak, followed as its README says: everything is started, people sign in, and the notebook's cells are run."""

import os
import re
import signal
import subprocess
import sys

from functools import lru_cache

import pytest
import requests

from harness import Http, Process, binary, free_port, plain_environment, secret, wait_until
from keycloak import CLIENTS, EXAMPLE, Visitor
from test_quickstart import children

CI = EXAMPLE.parent / "ci"
# It starts a Keycloak of its own.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keycloak-example")
    ports = {"PROXY_PORT": str(free_port()), "KEYCLOAK_PORT": str(free_port())}
    env = plain_environment() | ports | {"MLFLOW_AUTH_PROXY_BINARY": binary(), "MLFLOW_PYTHON": sys.executable}
    process = Process([EXAMPLE / "demo.sh"], folder / "demo.log", env, folder)
    process.url = f"http://localhost:{ports['PROXY_PORT']}"
    process.keycloak = f"http://127.0.0.1:{ports['KEYCLOAK_PORT']}"
    process.folder = folder

    def ready():
        process.check_alive()
        return "Press Ctrl-C to stop." in process.output()

    try:
        wait_until(ready, 600, "the demo is ready", every=0.5)
        # Keycloak's first token takes it long, longer than the proxy waits on a busy machine.
        form = {"grant_type": "client_credentials", "client_id": "ci", "client_secret": CLIENTS["ci"]}
        requests.post(f"{process.keycloak}/realms/mlflow/protocol/openid-connect/token", data=form, timeout=60)
        yield process
    finally:
        process.stop(60)
        for log in (folder / "keycloak-demo").glob("*.log"):
            print(log, log.read_text(errors="replace")[-2000:])


@lru_cache
def token_of(demo, name):
    """As in steps 2 and 3: signs in, and makes a token on the account page."""
    visitor = Visitor(demo.url, None)
    page = visitor.follow(visitor.fill(visitor.begin("/auth/account"), name, name))
    assert page.status_code == 200 and f"{name}@example.com" in page.text, page.text[:500]
    form_token = re.search(r'name="form_token" value="([^"]+)"', page.text).group(1)
    made = visitor.follow(visitor.post("/auth/account/tokens", {
        "form_token": form_token, "name": "notebook", "expires_in_days": "30", "only": ""}))
    return secret(re.search(r"mlap_\w+", made.text).group(0))


def cells(demo, number, token):
    """Types two of the README's Python blocks into an interactive Python: the first, which asks for the token, and this one."""
    blocks = re.findall(r"```python\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.S)
    # A terminal throws away what was pasted behind a question for a secret.
    assert "getpass(" in blocks[0].splitlines()[-1]
    typed = f"{blocks[0]}{token}\n{blocks[number]}".replace("http://localhost:8080", demo.url)
    done = subprocess.run(
        [sys.executable, "-c", "import code; code.interact(banner='', exitmsg='')"], input=typed, text=True,
        capture_output=True, timeout=150, env=plain_environment(), cwd=demo.folder, start_new_session=True,
    )
    assert "Traceback" not in done.stderr and "Error: " not in done.stderr, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_notebooks_sessions_obey_what_groups_were_granted(demo):
    alice = cells(demo, 1, token_of(demo, "alice"))
    assert "logged " in alice and "may read ['team-a-fraud']" in alice
    bob = cells(demo, 2, token_of(demo, "bob"))
    assert "may read team-a-fraud 1 run(s)" in bob
    assert "refused: PERMISSION_DENIED" in bob or "refused: Permission denied" in bob, bob
    assert "sees ['team-a-fraud']" in bob


def test_team_b_reads_team_as_models_too(demo):
    alice, bob = (Http(demo.url, f"Bearer {token_of(demo, name)}") for name in ("alice", "bob"))
    model = {"name": "team-a-model"}
    alice.ok("POST", "/api/2.0/mlflow/registered-models/create", model)
    assert bob.get("/api/2.0/mlflow/registered-models/get", model).status_code == 200
    assert bob.patch("/api/2.0/mlflow/registered-models/update", model | {"description": "ours"}).status_code == 403


def test_the_examples_for_ci_work_with_keycloaks_token(demo):
    """As examples/ci/README.md asks Keycloak, with a secret from a file that ends as editors end files."""
    command = next(block for block in re.findall(r"```sh\n(.*?)```", (CI / "README.md").read_text(), re.S) if "client_secret@" in block)
    command = command.replace("https://keycloak.example.com/realms/company", f"{demo.keycloak}/realms/mlflow")
    (demo.folder / "secret-file").write_text(CLIENTS["ci"] + "\n")
    (demo.folder / "train.py").write_text("print('trained')\n")
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", f"{command}export MLFLOW_TRACKING_TOKEN\nsh {CI / 'train.sh'}"], text=True, capture_output=True, timeout=60,
        env=plain_environment(MLFLOW_TRACKING_URI=f"{demo.url}/", PATH=path), cwd=demo.folder,
    )
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


def test_the_pipelines_token_comes_in_as_the_rule_says(demo):
    said = demo.output()
    command = said[said.index("curl -s"):said.index("\n\nWho may do what")]
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, env=plain_environment())
    token = secret(re.search(r'"access_token":"([^"]+)"', answer.stdout).group(1))
    me = Visitor(demo.url, None).http.get(
        f"{demo.url}/auth/api/v1/me", headers={"Authorization": f"Bearer {token}"}, timeout=30).json()
    assert (me["username"], me["scheme"]) == ("pipeline-ci", "jwt") and "/ml/team-a" in me["groups"]


def test_the_doctor_finds_nothing_wrong_with_it(demo):
    argv = [binary(), "doctor", "--config", demo.folder / "keycloak-demo" / "proxy.toml"]
    argv += ["--set", f"server.public_url={demo.url}", "--set", f"authz.policy_file={EXAMPLE / 'policy.toml'}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=plain_environment(), cwd=demo.folder)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "warning"))]
    # The file's MLflow is where a person would start one; quickstart chose another port.
    assert [line for line in lines if "MLflow" not in line] == [], done.stdout + done.stderr
    assert "http" in done.stdout and "is accepted" in done.stdout and "the client's credentials are accepted" in done.stdout


def test_the_doctor_names_keycloaks_setting_for_what_is_wrong(demo):
    def doctor(*more, secret_of_client=None):
        argv = [binary(), "doctor", "--config", demo.folder / "keycloak-demo" / "proxy.toml"]
        argv += ["--set", f"server.public_url={demo.url}", "--set", f"authz.policy_file={EXAMPLE / 'policy.toml'}"]
        for setting in more:
            argv += ["--set", setting]
        env = plain_environment()
        if secret_of_client:
            env["MLFLOW_AUTH_PROXY_OIDC__PROVIDERS__KEYCLOAK__CLIENT_SECRET"] = secret_of_client
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env, cwd=demo.folder)
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stdout

    wrong = doctor("server.public_url=http://localhost:1", secret_of_client="another-secret-here")
    assert "Clients > mlflow > Settings > Valid redirect URIs: http://localhost:1/auth/callback/keycloak" in wrong
    assert "Clients > mlflow > Settings > Valid post logout redirect URIs: http://localhost:1/auth/signed-out" in wrong
    assert "Clients > mlflow > Credentials > Client Secret" in wrong
    assert "another-secret-here" not in wrong
    assert "it has no client `nobody`" in doctor("oidc.providers.keycloak.client_id=nobody")
    assert "Create client scope `nonsense`" in doctor('oidc.providers.keycloak.scopes=["openid", "nonsense"]')


def test_ctrl_c_stops_all_of_it(demo):
    session = demo.child.pid
    assert len(children(session)) >= 3
    os.killpg(session, signal.SIGINT)
    assert demo.child.wait(60) == 0
    assert children(session) == []
