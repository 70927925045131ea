//! Processes: started on a chosen core, watched through `/proc`, ended by their id.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use mlflow_auth_proxy::clock::Stopwatch;
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};

/// A process that dies with this value.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: u32,
    /// Closing it tells our own helpers to leave, should we be killed before we can stop them.
    _stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts `program` on `core`, and waits until it accepts connections.
    pub(crate) async fn start(
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, String)],
        folder: &Path,
        core: Option<usize>,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let mut command = match core {
            None => Command::new(program),
            Some(core) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(core.to_string()).arg(program);
                command
            }
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let error_log = fs::File::create(folder.join("stderr.log"))?;
        command.args(arguments).env_clear().env("PATH", path).envs(environment.iter().cloned()).current_dir(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(error_log).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let pid = child.id().context("it has ended already")?;
        let stdin = child.stdin.take();
        let mut process = Self { child, pid, _stdin: stdin };
        process.wait_until_ready(address).await.with_context(|| {
            let said = fs::read_to_string(folder.join("stderr.log")).unwrap_or_default();
            format!("{} did not start: {}", program.display(), said.trim())
        })?;
        Ok(process)
    }

    async fn wait_until_ready(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        for _ in 0..400 {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("it ended with {status}");
            }
            if TcpStream::connect(address).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("nothing listens on {address} after 20 seconds")
    }

    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    pub(crate) fn cpu(&self) -> anyhow::Result<Cpu> {
        Cpu::of(&self.pid.to_string())
    }

    /// Resident memory in KiB.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }

    /// Open files, connections among them.
    pub(crate) fn files(&self) -> anyhow::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid))?.count())
    }
}

/// CPU time of a process so far, to the nanosecond, user and system, thread by thread: when a thread ends, its share
/// disappears from `/proc`, and a plain sum would go backwards.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cpu(BTreeMap<OsString, u64>);

impl Cpu {
    fn of(pid: &str) -> anyhow::Result<Self> {
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            // A thread may end between listing and reading.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            threads.insert(task.file_name(), text.split(' ').next().context("schedstat")?.parse()?);
        }
        Ok(Self(threads))
    }

    pub(crate) fn since(&self, before: &Self) -> Duration {
        let used = self.0.iter().map(|(thread, now)| now.saturating_sub(before.0.get(thread).copied().unwrap_or(0)));
        Duration::from_nanos(used.sum())
    }
}

/// How many cores were busy with processes that are none of ours.
#[derive(Debug)]
pub(crate) struct Neighbours<'p> {
    ours: Vec<&'p Process>,
    since: Stopwatch,
    busy: Duration,
    own: Vec<Cpu>,
}

impl<'p> Neighbours<'p> {
    pub(crate) fn watch(ours: Vec<&'p Process>) -> anyhow::Result<Self> {
        let own = own_cpu(&ours)?;
        Ok(Self { ours, since: Stopwatch::start(), busy: machine_busy()?, own })
    }

    pub(crate) fn cores(&self) -> anyhow::Result<f64> {
        let busy = machine_busy()?.saturating_sub(self.busy);
        let own: Duration = own_cpu(&self.ours)?.iter().zip(&self.own).map(|(now, before)| now.since(before)).sum();
        Ok(busy.saturating_sub(own).as_secs_f64() / self.since.elapsed().as_secs_f64())
    }
}

fn own_cpu(processes: &[&Process]) -> anyhow::Result<Vec<Cpu>> {
    std::iter::once(Cpu::of("self")).chain(processes.iter().map(|process| process.cpu())).collect()
}

/// User, nice, system, irq and softirq time of all cores since boot; in hundredths of a second.
fn machine_busy() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields = stat.lines().next().context("/proc/stat")?.split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>()?;
    let idle = [3, 4]; // idle, iowait
    let busy = ticks.iter().take(7).enumerate().filter(|(index, _)| !idle.contains(index));
    Ok(Duration::from_millis(10 * busy.map(|(_, ticks)| ticks).sum::<u64>()))
}

/// How many files this process may have open.
pub(crate) fn soft_file_limit() -> anyhow::Result<usize> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("Max open files")?;
    let soft = line.split_whitespace().next().context("Max open files")?;
    Ok(if soft == "unlimited" { usize::MAX } else { soft.parse()? })
}

/// The machine in one line.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo");
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let linux = read("/proc/sys/kernel/osrelease");
    format!("{}, Linux {}, {cores} core(s) for load and stub", model.trim_matches([' ', '\t', ':']), linux.trim())
}
