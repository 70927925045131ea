//! Metrics of the process from `/proc`, read when Prometheus scrapes; zero where there is no `/proc`.

use prometheus::{Counter, Gauge, Registry};

use super::process_gauge;

/// Metrics with Prometheus's standard names, so that standard dashboards work.
#[derive(Debug)]
pub(super) struct Process {
    resident_bytes: Gauge,
    cpu_seconds: Counter,
    open_files: Gauge,
}

impl Process {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let cpu_seconds = Counter::new("process_cpu_seconds_total", "User and system time")?;
        registry.register(Box::new(cpu_seconds.clone()))?;
        Ok(Self {
            resident_bytes: process_gauge(registry, "process_resident_memory_bytes", "Resident memory")?,
            cpu_seconds,
            open_files: process_gauge(registry, "process_open_fds", "Open file descriptors")?,
        })
    }

    pub(super) fn refresh(&self) {
        if let Some(bytes) = resident_bytes() {
            self.resident_bytes.set(bytes);
        }
        if let Some(seconds) = cpu_seconds() {
            self.cpu_seconds.inc_by((seconds - self.cpu_seconds.get()).max(0.0));
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.open_files.set(u32::try_from(files.count()).map_or(f64::INFINITY, f64::from));
        }
    }
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024.0)
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses, which can contain spaces and parentheses; parse after
    // the last one.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// `USER_HZ`, which Linux fixes at 100 for user space, whatever the kernel uses internally.
const TICKS_PER_SECOND: f64 = 100.0;
