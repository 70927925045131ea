//! Samples in, a table out: medians, ratios to the do-nothing proxy, and the goals beside them.

use crate::contender::Name;
use crate::{Settings, proc};

/// A row of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Figure {
    GetCpu,
    GetRate,
    GetP50,
    GetP99,
    PacedP50,
    PacedP99,
    DownCpu,
    DownRate,
    UpCpu,
    UpRate,
    AtRest,
    AfterLoad,
    IdleConnection,
    SlowReaders,
}

/// What a row should come to.
#[derive(Clone, Copy, Debug)]
enum Goal {
    None,
    /// Ours over do-nothing, at most.
    Ratio(f64),
    /// Ours, below.
    Below(f64),
}

const ROWS: [(Figure, &str, Goal); 14] = [
    (Figure::GetCpu, "GET 1 KiB: CPU us per request", Goal::Ratio(1.25)),
    (Figure::GetRate, "  requests per second", Goal::None),
    (Figure::GetP50, "  p50 ms, 32 connections, saturated", Goal::None),
    (Figure::GetP99, "  p99 ms", Goal::None),
    (Figure::PacedP50, "  p50 us at 3,000 per second", Goal::None),
    (Figure::PacedP99, "  p99 us at 3,000 per second", Goal::None),
    (Figure::DownCpu, "download 64 MiB: CPU ms", Goal::Ratio(1.20)),
    (Figure::DownRate, "  MiB per second", Goal::None),
    (Figure::UpCpu, "upload 64 MiB: CPU ms", Goal::None),
    (Figure::UpRate, "  MiB per second", Goal::None),
    (Figure::AtRest, "memory at rest: MiB", Goal::Below(40.0)),
    (Figure::AfterLoad, "  after all of the above: MiB", Goal::None),
    (Figure::IdleConnection, "  one idle connection: KiB", Goal::Ratio(1.0)),
    (Figure::SlowReaders, "  growth by 16 slow readers: MiB", Goal::Below(8.0)),
];

/// Everything measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    samples: Vec<(Figure, Name, f64)>,
    /// Cores that others used, slot by slot.
    pub(crate) neighbours: Vec<f64>,
}

impl Results {
    pub(crate) fn add(&mut self, figure: Figure, name: Name, value: f64) {
        self.samples.push((figure, name, value));
    }

    /// Not every contender is a process of its own.
    pub(crate) fn add_cpu(&mut self, figure: Figure, name: Name, value: Option<f64>) {
        if let Some(value) = value {
            self.add(figure, name, value);
        }
    }

    /// Prints the table; says whether every goal was met.
    pub(crate) fn print(&self, settings: &Settings) -> bool {
        let scheme = if settings.tls { "TLS 1.3 towards clients" } else { "plain HTTP" };
        println!("\n{}", proc::machine());
        println!(
            "{scheme}, HTTP/1.1, {} rounds there and back, {} idle connections; medians",
            settings.rounds, settings.idle_connections
        );
        if settings.proxy.is_none() {
            println!("`proxy` is the do-nothing proxy too: every ratio that is not 1 is noise");
        }
        println!(
            "\n{:<36}{:>10}{:>12}{:>10}{:>18}{:>8}   goal",
            "", "upstream", "do-nothing", "proxy", "(min - max)", "ratio"
        );
        let met: Vec<bool> = ROWS.iter().map(|(figure, title, goal)| self.print_row(*figure, title, *goal)).collect();
        self.print_access_log();
        self.print_neighbours();
        met.iter().all(|met| *met)
    }

    fn print_row(&self, figure: Figure, title: &str, goal: Goal) -> bool {
        let [bare, plain, ours] = [Name::Bare, Name::Plain, Name::Ours].map(|name| self.sorted(figure, name));
        let (plain, spread, ours) = (median(&plain), spread(&ours), median(&ours));
        let ratio = ours.zip(plain).map(|(ours, plain)| ours / plain);
        let (goal, met) = match goal {
            Goal::None => (String::new(), true),
            Goal::Ratio(most) => verdict(&format!("<= {most:.2}x"), ratio.is_some_and(|ratio| ratio < most + 0.005)),
            Goal::Below(most) => verdict(&format!("< {most:.0}"), ours.is_some_and(|ours| ours < most)),
        };
        let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}x"));
        let (bare, plain, ours) = (shown(median(&bare)), shown(plain), shown(ours));
        println!("{title:<36}{bare:>10}{plain:>12}{ours:>10}{spread:>18}{ratio:>8}   {goal}");
        met
    }

    fn print_access_log(&self) {
        let [plain, ours, logged] =
            [Name::Plain, Name::Ours, Name::Logged].map(|name| self.sorted(Figure::GetCpu, name));
        if let (Some(plain), Some(ours), Some(logged)) = (median(&plain), median(&ours), median(&logged)) {
            let (more, ratio) = (logged - ours, logged / plain);
            println!(
                "\nThe rows above are without access log; one line per request adds {more:.1} us ({ratio:.2}x do-nothing)."
            );
        }
    }

    fn print_neighbours(&self) {
        let mut cores = self.neighbours.clone();
        cores.sort_by(f64::total_cmp);
        let (middle, most) = (median(&cores).unwrap_or_default(), cores.last().copied().unwrap_or_default());
        let advice = if middle > 0.25 { "; the machine is not quiet: trust ratios of CPU only" } else { "" };
        println!("Cores used by others: {middle:.2} (median), {most:.2} (most){advice}.");
    }

    fn sorted(&self, figure: Figure, name: Name) -> Vec<f64> {
        let of = self.samples.iter().filter(|(f, n, _)| *f == figure && *n == name);
        let mut values: Vec<f64> = of.map(|(_, _, value)| *value).collect();
        values.sort_by(f64::total_cmp);
        values
    }
}

fn verdict(goal: &str, met: bool) -> (String, bool) {
    (format!("{goal:<9} {}", if met { "met" } else { "MISSED" }), met)
}

fn median(sorted: &[f64]) -> Option<f64> {
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

fn spread(sorted: &[f64]) -> String {
    match (sorted.first(), sorted.last()) {
        (Some(least), Some(most)) => format!("({} - {})", shown(Some(*least)), shown(Some(*most))),
        _ => String::new(),
    }
}

fn shown(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 1_000.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}
