//! Builds a [`Config`] from the layers. Every value is first checked on its own, so that one error does not hide
//! another.

use std::path::PathBuf;

use figment::Figment;
use figment::providers::Serialized;
use figment::value::Value;

use super::Config;
use super::egress::Egress;
use super::layers::{self, Environment, Given};
use super::parse;
use super::raw::{Raw, Secret};
use super::report::{Origin, Problems, Report};
use super::schema::{self, Schema};

/// Command line options of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// Path of the TOML file; overrides `MLFLOW_AUTH_PROXY_CONFIG`.
    pub config: Option<PathBuf>,
    /// Dotted keys and values, in the syntax of environment variables. The strongest layer.
    pub set: Vec<(String, String)>,
}

/// The effective value of one key, for display.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setting {
    pub key: String,
    /// The value in TOML syntax; secrets are redacted.
    pub value: String,
    /// `None` for the default.
    pub origin: Option<Origin>,
}

/// Reads the configuration of this process.
///
/// # Errors
/// All problems of the configuration.
pub fn load(flags: &Flags) -> Result<Config, Problems> {
    load_from(flags, &Environment::of_process()).map(|(config, _)| config)
}

/// Returns the configuration that results from the defaults alone, as tests and benchmarks need it.
///
/// # Errors
/// None: the defaults are valid.
pub fn defaults() -> Result<Config, Problems> {
    load_from(&Flags::default(), &Environment::default()).map(|(config, _)| config)
}

/// Reads a configuration from these flags and this environment. Also returns every effective setting.
///
/// # Errors
/// All problems of the configuration.
pub fn load_from(flags: &Flags, environment: &Environment) -> Result<(Config, Vec<Setting>), Problems> {
    let schema = Schema::new();
    let mut report = Report::default();
    let mut given = layers::read(flags, environment, &schema, &mut report);
    given.retain(|given| fits(given, &schema, &mut report));
    for given in &given {
        report.came_from(&given.key, &given.origin);
    }
    let Ok(raw) = overlay(&given).extract::<Raw>() else { return Err(unreadable(report)) };
    let settings = settings(&raw, &report);
    let config = parse::config(raw, Egress::of(environment), &mut report);
    report.finish(config.map(|config| (config, settings)))
}

/// Returns true if this value, applied alone to the defaults, has the right type.
fn fits(given: &Given, schema: &Schema, report: &mut Report) -> bool {
    if overlay(std::slice::from_ref(given)).extract::<Raw>().is_ok() {
        return true;
    }
    let expectation = schema.kind(&given.key).map_or("cannot be read", schema::Kind::expectation);
    report.add_from(&given.key, Some(given.origin.clone()), expectation);
    false
}

fn overlay(given: &[Given]) -> Figment {
    let defaults = Figment::from(Serialized::defaults(Raw::default()));
    given.iter().fold(defaults, |figment, given| figment.merge(Serialized::default(&given.key, &given.value)))
}

/// Reports values that fit only one by one. This cannot happen, but must not start the proxy with a wrong
/// configuration.
fn unreadable(mut report: Report) -> Problems {
    report.add("config", "the values cannot be combined");
    report.finish(None::<()>).err().unwrap_or_default()
}

fn settings(raw: &Raw, report: &Report) -> Vec<Setting> {
    let setting = |(key, value): (String, Value)| {
        let given =
            !matches!(&value, Value::Empty(..)) && !matches!(&value, Value::Array(_, items) if items.is_empty());
        let value = if schema::is_secret(&key) && given { Secret::REDACTED.to_owned() } else { written(&value) };
        Setting { origin: report.origin(&key).cloned(), key, value }
    };
    schema::leaves(raw).into_iter().map(setting).collect()
}

/// Formats a value in TOML syntax.
fn written(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Array(_, items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(", ")),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, number) => number.to_u128().map(|number| number.to_string()).unwrap_or_default(),
        Value::Empty(..) => "(none)".to_owned(),
        Value::Dict(_, fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name:?} = {}", written(value)));
            format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::Char(..) => String::new(),
    }
}
