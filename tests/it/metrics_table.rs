//! Generates the table of docs/metrics.md from the metrics that the program registers, and compares it.

use std::fmt::Write as _;

use mlflow_auth_proxy::telemetry::Metrics;
use mlflow_auth_proxy::telemetry::metrics::Described;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
const BEGIN: &str = "<!-- generated from src/telemetry/metrics.rs; update with `UPDATE_DOCS=1 cargo test --test it metrics_table` -->\n";
const END: &str = "<!-- end of the generated part -->\n";

#[test]
fn the_table_lists_every_metric() {
    let page = std::fs::read_to_string(PAGE).expect("docs/metrics.md");
    let (before, rest) = page.split_once(BEGIN).expect("the marker before the table");
    let (listed, after) = rest.split_once(END).expect("the marker after the table");
    let metrics = Metrics::new([]).expect("metrics");
    let mut rows: Vec<String> = metrics.described().iter().map(row).collect();
    rows.sort();
    let wanted = format!("\n| metric | type | labels | meaning |\n|---|---|---|---|\n{}\n", rows.concat());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, format!("{before}{BEGIN}{wanted}{END}{after}")).expect("docs/metrics.md is written");
    } else {
        assert!(listed == wanted, "docs/metrics.md differs from the program; UPDATE_DOCS=1 updates it");
    }
}

fn row(metric: &Described) -> String {
    let Described { name, kind, help, .. } = metric;
    let mut labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    if let ([label], false) = (labels.as_mut_slice(), metric.values.is_empty()) {
        let values: Vec<String> = metric.values.iter().map(|value| format!("`{value}`")).collect();
        write!(label, ": {}", values.join(", ")).expect("a text");
    }
    format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "))
}
