"""`quickstart --demo`: one command, a block to paste, and Ctrl-C."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys

import pytest

from harness import Process, binary, free_port, plain_environment, secret, wait_until

READ_BACK = """
import mlflow
with mlflow.start_run() as run:
    mlflow.log_metric("pasted", 1.0)
    mlflow.log_text("text", "file.txt")
print("run", run.info.run_id)
print("experiments", sorted(e.name for e in mlflow.search_experiments()))
"""


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def children(pid):
    """The processes of this session, by what the kernel says."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as stat:
                    fields = stat.read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == pid and fields[0] != "Z":
                found.append(int(entry))
    return found


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("quickstart"), free_port()
    process = Process(
        [binary(), "quickstart", "--demo", "--dir", folder / "data", "--port", port],
        folder / "quickstart.log", plain_environment(), folder,
    )
    process.port = port

    def said():
        process.check_alive()
        return "MLFLOW_TRACKING_URI" in process.output() and "Ctrl-C" in process.output()

    try:
        wait_until(said, 120, "the block is printed", every=0.3)
        yield process
    finally:
        process.stop()


def pasted(output):
    """The variables of the printed block, as a shell would take them."""
    found = {}
    for name, value in re.findall(r"export (MLFLOW_\w+)=(.*)", output):
        found[name] = shlex.split(value, comments=True)[0]
    return found


def test_the_printed_block_works_when_pasted(quickstart):
    block = pasted(quickstart.output())
    assert block["MLFLOW_TRACKING_URI"] == f"http://127.0.0.1:{quickstart.port}"
    token = block.get("MLFLOW_TRACKING_TOKEN") or block["MLFLOW_TRACKING_PASSWORD"]
    assert secret(token).startswith("mlap_")
    done = subprocess.run([sys.executable, "-c", READ_BACK], env=plain_environment(**block), capture_output=True, text=True,
                          timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert re.search(r"run [0-9a-f]{32}", done.stdout)
    names = re.search(r"experiments (.*)", done.stdout)[1]
    # The demonstration's shared experiment is there.
    assert len(re.findall("'[^']+'", names)) >= 2, names


def test_nobody_else_reaches_it(quickstart):
    import requests

    url = f"http://127.0.0.1:{quickstart.port}"
    assert requests.get(f"{url}/api/2.0/mlflow/users/current", timeout=10).status_code == 401
    for line in open("/proc/net/tcp").read().splitlines()[1:]:
        address, state = line.split()[1], line.split()[3]
        if state == "0A" and int(address.split(":")[1], 16) == quickstart.port:
            assert address.split(":")[0] == "0100007F", "only on loopback"


def test_ctrl_c_stops_both(quickstart):
    running = children(quickstart.child.pid)
    assert len(running) >= 2, "the proxy and an MLflow"
    assert listens(quickstart.port)
    # As a terminal does: to every process at once.
    os.killpg(quickstart.child.pid, signal.SIGINT)
    quickstart.child.wait(20)
    wait_until(lambda: not children(quickstart.child.pid), 10, f"nothing is left of {running}")
    assert not listens(quickstart.port)


def test_a_second_start_uses_what_the_first_left(quickstart, tmp_path):
    """The same folder again: data and accounts are still there, and it ends when it is told to, alone."""
    assert quickstart.child.poll() is not None, "the first one has ended"
    folder = quickstart.log.parent
    again = Process([binary(), "quickstart", "--dir", folder / "data", "--port", quickstart.port],
                    tmp_path / "again.log", plain_environment(), tmp_path)
    try:
        wait_until(lambda: again.check_alive() or listens(quickstart.port), 60, "it starts again", every=0.3)
        # To the one process, as a service manager does.
        again.child.send_signal(signal.SIGTERM)
        again.child.wait(20)
        wait_until(lambda: not children(again.child.pid), 10, "nothing is left")
    finally:
        again.stop()
    assert "panicked" not in again.output()
