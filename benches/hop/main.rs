//! One hop, measured: a do-nothing hyper proxy, this proxy with a warm token and full authorisation, and the bare
//! upstream, all in one run, visited forwards and then backwards, so that whatever else happens on the machine hits all
//! alike. `benches/run` builds everything and starts this.
//!
//! The main figure is CPU time per request from `/proc`: waiting behind a neighbour does not count in it. Everything
//! listens on loopback, ends by itself in about two minutes, and is stopped by its process id, also when we fail.
//!
//! From the environment: `BENCH_ROUNDS` (3), `BENCH_TLS=1` (TLS towards the clients), `BENCH_PROXY` (another binary to
//! measure, or `plain` for the do-nothing proxy against itself: what noise looks like), `BENCH_STRICT=1` (a missed goal
//! is exit code 1).

mod contender;
mod credentials;
mod load;
mod measure;
mod proc;
#[path = "../../tests/it/provider.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing, reason = "the tests' own, which they use whole")]
mod provider;
mod report;
mod setup;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use contender::Workshop;

/// What this run was asked to do.
#[derive(Debug)]
struct Settings {
    rounds: usize,
    tls: bool,
    strict: bool,
    /// The proxy to measure; `None` is the do-nothing proxy against itself.
    proxy: Option<PathBuf>,
    plain: PathBuf,
    stub: PathBuf,
    idle_connections: usize,
}

/// Whatever hangs, the run ends.
const TIME_LIMIT: Duration = Duration::from_secs(400);

fn main() -> ExitCode {
    // One thread: load and stub share one core, the proxy has the other.
    let outcome = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from);
    match outcome.and_then(|runtime| runtime.block_on(until_told_to_stop())) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn until_told_to_stop() -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Children die with the future that owns them, whichever way this ends.
    tokio::select! {
        outcome = tokio::time::timeout(TIME_LIMIT, run()) => outcome.context("the run took too long")?,
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("told to stop"),
    }
}

async fn run() -> anyhow::Result<ExitCode> {
    let settings = Settings::from_environment()?;
    let workshop = Workshop::open(&settings).await?;
    let mut results = report::Results::default();
    {
        let contenders = workshop.start_all().await?;
        measure::saturation(&settings, &workshop, &contenders, &mut results).await?;
        measure::latency(&settings, &workshop, &contenders, &mut results).await?;
        measure::bulk(&settings, &workshop, &contenders, &mut results).await?;
        measure::after_load(&contenders, &mut results)?;
        contenders.stop().await?;
    }
    measure::memory(&settings, &workshop, &mut results).await?;
    let credentials = credentials::measure(&settings, &workshop).await?;
    workshop.close().await?;
    let all_met = results.print(&settings) & credentials.is_none_or(|measured| measured.print());
    Ok(if all_met || !settings.strict { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Settings {
    fn from_environment() -> anyhow::Result<Self> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let own = std::env::current_exe()?;
        let examples = own.parent().context("where am I")?;
        let release = examples.parent().context("where am I")?;
        let proxy = match set("BENCH_PROXY") {
            Some(plain) if plain == "plain" => None,
            Some(path) => Some(PathBuf::from(path).canonicalize().context("BENCH_PROXY")?),
            None => Some(release.join("mlflow-auth-proxy")),
        };
        let rounds = set("BENCH_ROUNDS").map_or(Ok(3), |rounds| rounds.parse()).context("BENCH_ROUNDS")?;
        let settings = Self {
            rounds,
            tls: set("BENCH_TLS").is_some_and(|value| value != "0"),
            strict: set("BENCH_STRICT").is_some_and(|value| value != "0"),
            proxy,
            plain: examples.join("plain-proxy"),
            stub: examples.join("stub"),
            idle_connections: proc::soft_file_limit()?.saturating_sub(1_000).min(5_000),
        };
        for program in [&settings.plain, &settings.stub].into_iter().chain(settings.proxy.as_ref()) {
            anyhow::ensure!(Path::new(program).is_file(), "{} is not built; use benches/run", program.display());
        }
        Ok(settings)
    }
}
