//! MLflow as a child process, in its own process group, on loopback. The whole group is ended with it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use url::Url;

use super::super::progress;
use super::place::{Place, private_file};
use super::python::Python;
use crate::clock::Stopwatch;
use crate::config;

/// A running MLflow server.
#[derive(Debug)]
pub(super) struct Mlflow {
    child: Child,
    group: Group,
    pid_file: PathBuf,
    log: PathBuf,
}

impl Mlflow {
    /// Starts the server; [`ready`] waits until it answers.
    pub(super) async fn start(python: &Python, place: &Place, port: u16) -> anyhow::Result<Self> {
        end_the_one_left_behind(place).await;
        let log = private_file(OpenOptions::new().append(true), &place.log())?;
        let child = server(python, place, port)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be run", python.executable.display()))?;
        let group = Group(child.id().context("MLflow ended at once")?);
        let mut pid_file = private_file(OpenOptions::new().write(true).truncate(true), &place.pid_file())?;
        pid_file.write_all(group.0.to_string().as_bytes()).context("the process ID of MLflow cannot be written")?;
        progress::say(&format!("Starting MLflow {} on 127.0.0.1:{port}", python.version));
        Ok(Self { child, group, pid_file: place.pid_file(), log: place.log() })
    }

    /// Waits until the server ends by itself, and returns the reason as far as its log shows it.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        let how = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        anyhow!("MLflow ended by itself ({how}); {}", super::place::tail(&self.log))
    }

    /// Asks the whole group to end, then kills it.
    pub(super) async fn stop(&mut self) {
        self.group.signal("TERM").await;
        let _ = timeout(STOP_TIMEOUT, self.child.wait()).await;
        // A worker can outlive the server, so the whole group is checked.
        let patience = Stopwatch::start();
        while self.group.signal("0").await && patience.elapsed() < WORKER_TIMEOUT {
            sleep(POLL).await;
        }
        self.kill().await;
    }

    /// Kills the whole group at once.
    pub(super) async fn kill(&mut self) {
        self.group.signal("KILL").await;
        let _ = timeout(STOP_TIMEOUT, self.child.wait()).await;
        let _ = std::fs::remove_file(&self.pid_file);
    }
}

/// Waits until MLflow answers, for a limited time.
pub(super) async fn ready(url: &Url) -> anyhow::Result<()> {
    let watch = Stopwatch::start();
    while watch.elapsed() < START_TIMEOUT {
        if timeout(PROBE_TIMEOUT, answers(url)).await.is_ok_and(|answer| answer.unwrap_or(false)) {
            progress::say(&format!("MLflow is ready after {} s", watch.elapsed().as_secs()));
            return Ok(());
        }
        progress::step(&format!("waiting for MLflow, {} s", watch.elapsed().as_secs()));
        sleep(POLL).await;
    }
    bail!("MLflow did not answer within {} s", START_TIMEOUT.as_secs())
}

/// Returns true if `GET /health` is answered with 200.
async fn answers(url: &Url) -> std::io::Result<bool> {
    let authority = url.authority();
    let mut stream = TcpStream::connect(authority).await?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(&head == b"HTTP/1.1 200" || &head == b"HTTP/1.0 200")
}

fn server(python: &Python, place: &Place, port: u16) -> Command {
    let mut command = python.command();
    command.args(["-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1", "--port", &port.to_string()]);
    command.arg("--backend-store-uri").arg(format!("sqlite:///{}", place.database()));
    command.arg("--artifacts-destination").arg(place.artifacts());
    command.env("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false").env("MLFLOW_DISABLE_TELEMETRY", "true");
    // A process group of its own: Ctrl-C in the terminal does not reach MLflow, which is ended after the proxy has
    // drained.
    command.process_group(0).stdin(Stdio::null()).current_dir(place.root());
    command
}

/// Ends an MLflow whose quickstart was killed. Two servers on one database would disturb each other.
async fn end_the_one_left_behind(place: &Place) {
    let noted = config::read_regular(&place.pid_file(), MAX_PID_BYTES).ok();
    let Some(group) = noted.and_then(|text| text.trim().parse().ok()).map(Group) else { return };
    // The PID may have been reused: only a process whose command line contains this database is ended.
    let arguments = std::fs::read(format!("/proc/{}/cmdline", group.0)).unwrap_or_default();
    if String::from_utf8_lossy(&arguments).contains(&place.database()) {
        progress::say("Stopping the MLflow of an earlier quickstart");
        group.signal("TERM").await;
        let patience = Stopwatch::start();
        while group.signal("0").await && patience.elapsed() < STOP_TIMEOUT {
            sleep(POLL).await;
        }
        group.signal("KILL").await;
    }
    let _ = std::fs::remove_file(place.pid_file());
}

/// A process group, by the PID of its leader.
#[derive(Clone, Copy, Debug)]
struct Group(u32);

impl Group {
    /// Sends a signal to the whole group. Returns true if it had a process. Uses the shell's built-in `kill`, because
    /// slim images have no other.
    async fn signal(self, name: &str) -> bool {
        let mut kill = Command::new("sh");
        kill.args(["-c", "kill -\"$1\" \"-$2\"", "sh", name, &self.0.to_string()]);
        kill.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        kill.status().await.is_ok_and(|status| status.success())
    }
}

const MAX_PID_BYTES: u64 = 16;
const START_TIMEOUT: Duration = Duration::from_secs(180);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const WORKER_TIMEOUT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(200);
