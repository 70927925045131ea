"""A real PgBouncer and a real HAProxy of the tests' own, on free loopback ports."""

import os
import socket
import subprocess
from pathlib import Path

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
