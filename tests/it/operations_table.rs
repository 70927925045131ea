//! Generates the list of operations in docs/operations-table.md from the route table, and compares it.

use std::fmt::Write as _;

use mlflow_auth_proxy::mlflow::{Need, Operation, Table, Thing};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations-table.md");
const ROUTES: &str = include_str!("../../src/mlflow/routes.toml");
const BEGIN: &str = "<!-- generated from src/mlflow/routes.toml; update with `UPDATE_DOCS=1 cargo test --test it operations_table` -->\n";
const END: &str = "<!-- end of the generated part -->\n";

#[test]
fn the_operations_table_lists_every_operation() {
    let page = std::fs::read_to_string(PAGE).expect("docs/operations-table.md");
    let (before, rest) = page.split_once(BEGIN).expect("the marker before the list");
    let (listed, after) = rest.split_once(END).expect("the marker after the list");
    let wanted = list();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, format!("{before}{BEGIN}{wanted}{END}{after}"))
            .expect("docs/operations-table.md is written");
    } else {
        assert!(listed == wanted, "docs/operations-table.md differs from routes.toml; UPDATE_DOCS=1 updates it");
    }
}

/// Returns the sections and rows of the file in its order, with the parsed needs.
fn list() -> String {
    let table = Table::built_in().expect("the built-in table");
    let mut operations = table.operations().iter();
    let mut out = String::from("\n| operation | request | requires |\n|---|---|---|\n");
    for line in ROUTES.lines() {
        if let Some(section) = line.strip_prefix("# ---- ") {
            writeln!(out, "| **{section}** | | |").expect("a text");
        } else if let Some(route) = line.strip_prefix("route = ") {
            let operation = operations.next().expect("as many operations as routes");
            let route = route.trim_matches('"').replace("/mlflow/", "/…/");
            writeln!(out, "| {} | `{route}` | {} |", operation.name, needs(operation)).expect("a text");
        }
    }
    assert!(operations.next().is_none());
    out + "\n"
}

fn needs(operation: &Operation) -> String {
    let mut words: Vec<String> = operation.needs.iter().map(need).collect();
    words.dedup();
    let mut text = words.join("; ");
    if operation.filter.is_some() {
        text += "; the answer contains only what the caller can read";
    }
    if let Some(narrow) = &operation.narrow {
        write!(text, "; the {}s named are reduced to those that the caller can read", noun(narrow.thing))
            .expect("a text");
    }
    if operation.rule.is_some() {
        text += "; and a rule";
    }
    text
}

fn need(need: &Need) -> String {
    match need {
        Need::Public => "nothing".to_owned(),
        Need::SignedIn => "to be signed in".to_owned(),
        Need::Admin => "an administrator".to_owned(),
        Need::Blocked(feature) => format!("closed; an administrator with `{}` in `authz.opened`", feature.as_str()),
        Need::Create(kind) => format!("to be signed in, and not to be denied {}s", kind.noun()),
        Need::NotDenied(tier) => format!("not to be denied {}s", tier.noun()),
        Need::Tier(permission, tier) => format!("`{permission}` on `{tier}`, where it is granted"),
        Need::Level { permission, thing, field } => {
            let each = if field.steps.iter().any(|step| step.each) { "each " } else { "the " };
            let optional = if field.optional { ", if given" } else { "" };
            format!("`{permission}` on {each}{}{optional}", noun(*thing))
        }
    }
}

const fn noun(thing: Thing) -> &'static str {
    match thing {
        Thing::Experiment | Thing::ExperimentName => "experiment",
        Thing::TracesOf => "experiment's traces",
        Thing::AssessmentsOf => "experiment's assessments",
        Thing::Run => "run",
        Thing::LoggedModel => "logged model",
        Thing::Trace => "trace",
        Thing::AssessmentOf => "trace's assessments",
        Thing::Dataset => "dataset: all its experiments",
        Thing::Issue => "issue",
        Thing::LabelSchema => "label schema",
        Thing::ReviewQueue | Thing::ReviewQueueName => "review queue",
        Thing::PromptJob => "prompt optimization job",
        Thing::OnlineScorer => "scorer's experiment",
        Thing::Model => "model or prompt",
        Thing::VersionOf => "model's or prompt's versions",
        Thing::Scorer => "scorer",
        Thing::ScorerVersion => "scorer's versions",
        Thing::Secret => "secret",
        Thing::Endpoint | Thing::EndpointName => "endpoint",
        Thing::ModelDefinition => "model definition",
        Thing::Guardrail => "guardrail's scorer",
        Thing::McpServer => "MCP server",
        Thing::McpServerVersion | Thing::NewMcpServerVersion => "MCP server's versions",
        Thing::Skill => "skill",
        Thing::NewSkill => "skill, if it exists",
        Thing::Job => "job",
        Thing::Artifact => "experiment or skill that the path belongs to",
    }
}
