//! Messages to the service manager, received on a real datagram socket.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::PATIENCE;

/// `serve` with an address where no MLflow answers: the proxy is ready to serve nevertheless.
fn serve(here: &Path, listen: &str, more: &[(&str, &str)]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlflow-auth-proxy"));
    command.args(["serve", "--listen", listen, "--upstream", "http://127.0.0.1:9", "--set"]);
    command.args(["admin.listen=127.0.0.1:0", "--store", "sqlite://proxy.db", "--set", "server.drain_delay_seconds=0"]);
    command.current_dir(here).env_clear().stdout(Stdio::null()).stderr(Stdio::piped());
    command.envs(more.iter().copied()).spawn().expect("the proxy starts")
}

fn terminate(child: &Child) {
    let killed = Command::new("kill").arg(child.id().to_string()).status().expect("kill");
    assert!(killed.success());
}

/// The socket of a service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(here: &Path) -> Self {
        let socket = UnixDatagram::bind(here.join("notify")).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        Self(socket)
    }

    fn next(&self) -> Vec<String> {
        let mut buffer = [0; 1024];
        let length = self.0.recv(&mut buffer).expect("a message");
        let text = std::str::from_utf8(&buffer[..length]).expect("UTF-8");
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn the_service_manager_learns_of_the_start_and_of_the_end() {
    let here = tempfile::tempdir().expect("a folder");
    let manager = Manager::listen(here.path());
    let mut proxy =
        serve(here.path(), ANY_PORT, &[("NOTIFY_SOCKET", here.path().join("notify").to_str().expect("UTF-8"))]);
    let ready = manager.next();
    assert_eq!(ready[0], "READY=1");
    let address = ready[1].strip_prefix("STATUS=serving on ").expect("the address");
    TcpStream::connect(address).expect("it serves by then");
    terminate(&proxy);
    assert_eq!(manager.next(), ["STOPPING=1", "STATUS=draining"]);
    assert!(proxy.wait().expect("its end").success());
}

#[test]
fn the_watchdog_is_fed_when_there_is_one() {
    let here = tempfile::tempdir().expect("a folder");
    let manager = Manager::listen(here.path());
    let socket = here.path().join("notify");
    let more = [("NOTIFY_SOCKET", socket.to_str().expect("UTF-8")), ("WATCHDOG_USEC", "90000")];
    let mut proxy = serve(here.path(), ANY_PORT, &more);
    let mut seen = Vec::new();
    while seen.iter().filter(|line| *line == "WATCHDOG=1").count() < 3 {
        seen.extend(manager.next());
    }
    assert!(seen.contains(&"READY=1".to_owned()), "{seen:?}");
    terminate(&proxy);
    assert!(proxy.wait().expect("its end").success());
}

#[test]
fn a_proxy_that_cannot_start_is_never_ready() {
    let here = tempfile::tempdir().expect("a folder");
    let manager = Manager::listen(here.path());
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = taken.local_addr().expect("its address").to_string();
    let socket = here.path().join("notify");
    let mut proxy = serve(here.path(), &listen, &[("NOTIFY_SOCKET", socket.to_str().expect("UTF-8"))]);
    assert!(!proxy.wait().expect("its end").success());
    manager.0.set_nonblocking(true).expect("no waiting");
    assert!(manager.0.recv(&mut [0; 16]).is_err(), "no message");
}

#[test]
fn a_service_manager_that_is_gone_stops_nothing() {
    let here = tempfile::tempdir().expect("a folder");
    let mut proxy = serve(here.path(), ANY_PORT, &[("NOTIFY_SOCKET", "/nowhere/notify")]);
    let log = BufReader::new(proxy.stderr.take().expect("its log"));
    let mut lines = log.lines().map(|line| line.expect("UTF-8"));
    assert!(lines.any(|line| line.contains("the service manager could not be notified")), "a warning");
    terminate(&proxy);
    assert!(lines.any(|line| line.contains("draining")), "it ran");
    lines.for_each(drop);
    assert!(proxy.wait().expect("its end").success());
}

const ANY_PORT: &str = "127.0.0.1:0";
