"""What the documents tell people to write is a configuration that starts."""

import re
import subprocess

import pytest

from harness import Tls, binary, plain_environment
from keycloak import EXAMPLE

ROOT = EXAMPLE.parent.parent
README = "README.md"
KEYCLOAK = "examples/keycloak/README.md"


@pytest.fixture
def places(tmp_path):
    """Where the documents' paths lead here."""
    tls = Tls.make(tmp_path)
    (tmp_path / "secret").write_text("what-keycloak-shows\n")
    return {
        "/etc/mlflow-auth-proxy/tls.crt": tls.cert,
        "/etc/mlflow-auth-proxy/tls.key": tls.key,
        "/etc/mlflow-auth-proxy/policy.toml": EXAMPLE / "policy.toml",
        "/var/lib/mlflow-auth-proxy": tmp_path,
        "/run/secrets/keycloak-client": tmp_path / "secret",
    }


def blocks(document, language, places):
    text = (ROOT / document).read_text()
    for theirs, ours in places.items():
        text = text.replace(theirs, str(ours))
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def check_config(*arguments, **environment):
    argv = [binary(), "check-config", *arguments]
    done = subprocess.run(argv, env=plain_environment(**environment), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def variables(block):
    return dict(re.findall(r"^export (MLFLOW_AUTH_PROXY_\w+)='?([^'\n]*)'?$", block, re.M))


def test_the_readmes_variables_are_enough(places):
    in_front, with_keycloak = (found for found in map(variables, blocks(README, "sh", places)) if found)
    check_config(**in_front)
    check_config(**in_front | with_keycloak)


def test_the_configuration_for_a_keycloak_of_ones_own_is_enough(places, tmp_path):
    (found,) = blocks(KEYCLOAK, "toml", places)
    (tmp_path / "proxy.toml").write_text(found)
    check_config("--config", tmp_path / "proxy.toml")
