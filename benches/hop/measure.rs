//! The slots: what is done to each contender, and for how long.

use std::time::Duration;

use anyhow::Context as _;
use mlflow_auth_proxy::clock::Stopwatch;

use crate::Settings;
use crate::contender::{Contender, Contenders, Name, Workshop};
use crate::load::{BIG, Load};
use crate::proc::{Cpu, Neighbours, Process};
use crate::report::{Figure, Results};

const WARM_UP: Duration = Duration::from_millis(250);
const SATURATION: Duration = Duration::from_millis(1_250);
const PACED: Duration = Duration::from_millis(2_000);
const CONNECTIONS: usize = 32;
const PACED_CONNECTIONS: u32 = 16;
const PACED_RATE: u32 = 3_000;
const TRANSFERS: u32 = 4;
const SLOW_READERS: usize = 16;
const SETTLE: Duration = Duration::from_millis(700);

/// Small requests, as many as fit.
pub(crate) async fn saturation(
    settings: &Settings,
    workshop: &Workshop,
    contenders: &Contenders,
    results: &mut Results,
) -> anyhow::Result<()> {
    for round in 1..=settings.rounds {
        eprintln!("bench: small requests, round {round} of {}", settings.rounds);
        for contender in contenders.there_and_back() {
            contender.target.saturate(CONNECTIONS, WARM_UP).await?;
            let slot = Slot::begin(workshop, contender)?;
            let load = contender.target.saturate(CONNECTIONS, SATURATION).await?;
            let name = contender.name;
            let requests = load.latencies.len() as f64;
            let used = slot.end(results)?.map(|cpu| cpu.as_secs_f64() * 1e6 / requests);
            results.add_cpu(Figure::GetCpu, name, used);
            results.add(Figure::GetRate, name, requests / load.seconds);
            add_quantiles(results, name, &load, (Figure::GetP50, Figure::GetP99), 1e3);
        }
    }
    Ok(())
}

/// Small requests at a fixed rate that leaves everybody time to spare.
pub(crate) async fn latency(
    settings: &Settings,
    workshop: &Workshop,
    contenders: &Contenders,
    results: &mut Results,
) -> anyhow::Result<()> {
    for round in 1..settings.rounds.max(2) {
        eprintln!("bench: {PACED_RATE} requests a second, round {round} of {}", settings.rounds.max(2) - 1);
        for contender in contenders.there_and_back().filter(|contender| contender.name != Name::Logged) {
            contender.target.pace(PACED_CONNECTIONS, PACED_RATE, WARM_UP).await?;
            let slot = Slot::begin(workshop, contender)?;
            let load = contender.target.pace(PACED_CONNECTIONS, PACED_RATE, PACED).await?;
            slot.end(results)?;
            add_quantiles(results, contender.name, &load, (Figure::PacedP50, Figure::PacedP99), 1e6);
        }
    }
    Ok(())
}

/// 64 MiB each way, one stream.
pub(crate) async fn bulk(
    settings: &Settings,
    workshop: &Workshop,
    contenders: &Contenders,
    results: &mut Results,
) -> anyhow::Result<()> {
    for round in 1..=settings.rounds {
        eprintln!("bench: 64 MiB down and up, round {round} of {}", settings.rounds);
        for contender in contenders.there_and_back().filter(|contender| contender.name != Name::Logged) {
            let mut connection = contender.target.connect().await?;
            connection.download().await?;
            let slot = Slot::begin(workshop, contender)?;
            for _ in 0..TRANSFERS {
                connection.download().await?;
            }
            slot.end_transfers(results, contender.name, (Figure::DownCpu, Figure::DownRate))?;
            connection.upload().await?;
            let slot = Slot::begin(workshop, contender)?;
            for _ in 0..TRANSFERS {
                connection.upload().await?;
            }
            slot.end_transfers(results, contender.name, (Figure::UpCpu, Figure::UpRate))?;
        }
    }
    Ok(())
}

/// Memory of the processes that just did all that.
pub(crate) fn after_load(contenders: &Contenders, results: &mut Results) -> anyhow::Result<()> {
    for contender in contenders.iter() {
        if let Some(process) = &contender.process {
            results.add(Figure::AfterLoad, contender.name, mebibytes(process.resident()?));
        }
    }
    Ok(())
}

/// Memory of fresh processes: at rest, with idle connections, with slow readers.
pub(crate) async fn memory(settings: &Settings, workshop: &Workshop, results: &mut Results) -> anyhow::Result<()> {
    let turns = [Name::Plain, Name::Ours, Name::Ours, Name::Plain];
    for (turn, name) in (1..).zip(turns) {
        eprintln!("bench: memory, turn {turn} of {}", turns.len());
        idle_connections(settings, workshop, name, results).await?;
        slow_readers(workshop, name, results).await?;
    }
    Ok(())
}

async fn idle_connections(
    settings: &Settings,
    workshop: &Workshop,
    name: Name,
    results: &mut Results,
) -> anyhow::Result<()> {
    let contender = workshop.start(name).await?;
    let process = contender.process.as_ref().context("a proxy")?;
    let first = contender.target.idle(1).await?;
    tokio::time::sleep(SETTLE).await;
    results.add(Figure::AtRest, name, mebibytes(process.resident()?));
    // The pool's connections and whatever else a busy process has are no part of an idle connection.
    contender.target.saturate(CONNECTIONS, WARM_UP).await?;
    tokio::time::sleep(SETTLE).await;
    let before = process.resident()?;
    let idle = contender.target.idle(settings.idle_connections).await?;
    tokio::time::sleep(SETTLE).await;
    let files = process.files()?;
    anyhow::ensure!(files >= idle.len(), "{name:?} keeps {files} files open, not {} connections", idle.len());
    let growth = process.resident()?.saturating_sub(before);
    results.add(Figure::IdleConnection, name, growth as f64 / idle.len() as f64);
    drop((first, idle));
    contender.process.context("a proxy")?.stop().await
}

async fn slow_readers(workshop: &Workshop, name: Name, results: &mut Results) -> anyhow::Result<()> {
    let contender = workshop.start(name).await?;
    contender.target.saturate(CONNECTIONS, WARM_UP).await?;
    tokio::time::sleep(SETTLE).await;
    let process = contender.process.as_ref().context("a proxy")?;
    let before = process.resident()?;
    let mut readers = contender.target.slow_readers(SLOW_READERS).await?;
    let mut highest = before;
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        highest = highest.max(process.resident()?);
    }
    if let Some(ended) = readers.try_join_next() {
        ended??;
    }
    results.add(Figure::SlowReaders, name, mebibytes(highest.saturating_sub(before)));
    drop(readers);
    contender.process.context("a proxy")?.stop().await
}

/// What is read before and after.
struct Slot<'p> {
    process: Option<&'p Process>,
    cpu: Cpu,
    neighbours: Neighbours<'p>,
    since: Stopwatch,
}

impl<'p> Slot<'p> {
    fn begin(workshop: &'p Workshop, contender: &'p Contender) -> anyhow::Result<Self> {
        let process = contender.process.as_ref();
        let neighbours = Neighbours::watch(process.into_iter().chain([&workshop.stub]).collect())?;
        let cpu = process.map(Process::cpu).transpose()?.unwrap_or_default();
        Ok(Self { process, cpu, neighbours, since: Stopwatch::start() })
    }

    /// CPU time of the proxy since the beginning.
    fn end(self, results: &mut Results) -> anyhow::Result<Option<Duration>> {
        let cpu = self.process.map(Process::cpu).transpose()?;
        results.neighbours.push(self.neighbours.cores()?);
        Ok(cpu.map(|cpu| cpu.since(&self.cpu)))
    }

    fn end_transfers(self, results: &mut Results, name: Name, (cpu, rate): (Figure, Figure)) -> anyhow::Result<()> {
        let seconds = self.since.elapsed().as_secs_f64();
        let used = self.end(results)?.map(|used| used.as_secs_f64() * 1e3 / f64::from(TRANSFERS));
        results.add_cpu(cpu, name, used);
        results.add(rate, name, f64::from(TRANSFERS) * BIG as f64 / f64::from(1 << 20) / seconds);
        Ok(())
    }
}

fn add_quantiles(results: &mut Results, name: Name, load: &Load, (p50, p99): (Figure, Figure), per_second: f64) {
    results.add(p50, name, load.quantile(0.50).as_secs_f64() * per_second);
    results.add(p99, name, load.quantile(0.99).as_secs_f64() * per_second);
}

fn mebibytes(kibibytes: u64) -> f64 {
    kibibytes as f64 / 1024.0
}
