"""A real PgBouncer and a real HAProxy of the tests' own, on free loopback ports."""

import csv
import io
import os
import socket
import subprocess
from pathlib import Path

import requests

from harness import ROOT, Process, free_port, plain_environment, wait_until


def program(name):
    found = subprocess.run([ROOT / "scripts" / "programs.sh", name], check=True, capture_output=True, text=True)
    return found.stdout.strip()


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class PgBouncer:
    """In front of one PostgreSQL, in transaction mode. It hands its sessions out in turn, so that no client stays on one."""

    def __init__(self, folder, url, mode="transaction", settings=""):
        """`url`: that of the server, without a database."""
        self.port = free_port()
        self.url = f"postgres://postgres@127.0.0.1:{self.port}"
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # `auth_type = any`: PgBouncer asks for no password, like the server.
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(
            "[databases]\n"
            f"* = host=127.0.0.1 port={url.rsplit(':', 1)[1]} user=postgres\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = {mode}\nserver_round_robin = 1\ndefault_pool_size = 8\nmax_client_conn = 200\n{settings}\n"
        )
        argv = [program("pgbouncer"), configuration]
        # It refuses to run as root.
        if os.geteuid() == 0:
            configuration.chmod(0o644)
            readable(folder)
            argv = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *argv]
        self.process = Process(argv, folder / "pgbouncer.log", plain_environment(), "/")

        def answers():
            self.process.check_alive()
            return listens(self.port)

        wait_until(answers, 30, "PgBouncer listens")

    def stop(self):
        self.process.stop()


def readable(folder):
    """Lets another user read a folder that pytest made for its own."""
    for one in (folder, *folder.parents):
        if one.stat().st_uid == os.geteuid() and one.stat().st_mode & 0o001 == 0:
            one.chmod(one.stat().st_mode | 0o011)


class HaProxy:
    """In front of replicas, or, in TCP mode, of servers of PostgreSQL. It checks them five times a second."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port, self.stats_port = free_port(), free_port()
        # Another site than an identity provider at 127.0.0.1.
        self.url = f"http://localhost:{self.port}"
        self.process = None

    def before_replicas(self, replicas):
        """Each request goes to the next replica that is ready; `X-Replica` says to which. A request is sent to another one
        only if no connection was made."""
        servers = [f"server {one.folder.name} 127.0.0.1:{one.port} check port {one.admin_port}" for one in replicas]
        self._start("http", [
            "option httpchk GET /readyz",
            "http-check send hdr Host localhost",
            "option redispatch 1",
            "retries 3",
            "balance roundrobin",
            "http-request set-header X-Forwarded-For %[src]",
            "http-response set-header X-Replica %s",
            *servers,
        ])
        return self

    def before_servers(self, ports):
        """To the first server that accepts connections. What was connected to one that is gone is disconnected."""
        servers = [f"server s{port} 127.0.0.1:{port} check on-marked-down shutdown-sessions" for port in ports]
        self._start("tcp", [servers[0], *(f"{server} backup" for server in servers[1:])])
        return self

    def _start(self, mode, backend):
        lines = [
            "global", "tune.bufsize 65536", "maxconn 2000",
            "defaults", f"mode {mode}", "timeout connect 2s", "timeout client 600s", "timeout server 600s",
            # A busy machine answers a check late; an answer that is not 200 counts at once.
            "timeout check 5s",
            "default-server inter 200ms fall 1 rise 1",
            "frontend stats", "mode http", f"bind 127.0.0.1:{self.stats_port}", "stats enable", "stats uri /",
            "frontend clients", f"bind 127.0.0.1:{self.port}", "default_backend servers",
            "backend servers", *backend,
        ]
        (self.folder / "haproxy.cfg").write_text("\n".join(lines) + "\n")
        argv = [program("haproxy"), "-db", "-f", self.folder / "haproxy.cfg"]
        self.process = Process(argv, self.folder / "haproxy.log", plain_environment(), self.folder)

        def answers():
            self.process.check_alive()
            return listens(self.port) and all(state == "UP" for state in self.states().values())

        wait_until(answers, 30, "HAProxy finds its servers")

    def statistics(self):
        """Rows of its statistics by name: those of the servers, and `BACKEND`."""
        text = requests.get(f"http://127.0.0.1:{self.stats_port}/;csv", timeout=5).text.lstrip("# ")
        return {row["svname"]: row for row in csv.DictReader(io.StringIO(text)) if row["pxname"] == "servers"}

    def states(self):
        """`UP`, `DOWN` or something in between for each server."""
        return {name: row["status"] for name, row in self.statistics().items() if name != "BACKEND"}

    def counted(self):
        """How many answers of each class were sent to clients, how many of them were HAProxy's own, and requests that were
        sent again."""
        row = self.statistics()["BACKEND"]
        return {key: int(row[key] or 0) for key in ("hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "econ", "eresp", "wretr", "wredis")}

    def stop(self):
        if self.process:
            self.process.stop()
