//! Issue detection and its schedule.

use super::super::json::canonical;
use super::super::locate::{Located, is_opaque_id, member, shown, text_field};
use super::super::{Json, LocateError, Thing, provider};
use super::scorers::uses;
use super::{Connection, Demand};
use crate::authz::Permission;

/// Returns the demands of a tag of an experiment, which can contain the schedule.
pub(super) fn tag(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let key = text_field(body, "key")?.unwrap_or_default();
    let value = text_field(body, "value")?;
    schedule_tag(&key, value.as_deref())
}

/// Returns the demands of issue detection. It calls a model: an endpoint, or a provider with a secret or with the server's own
/// key.
pub(super) fn detection(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let mut text = |name| text_field(body, name).map(|text| text.filter(|text| !text.is_empty()));
    let choice = ModelChoice {
        provider: text("provider")?,
        model: text("model")?,
        secret: text("secret_id")?,
        endpoint: text("endpoint_name")?,
    };
    choice.demands()
}

/// The choice of a model for issue detection (`mlflow/genai/discovery`, 3.13 to 3.18).
struct ModelChoice {
    provider: Option<String>,
    model: Option<String>,
    secret: Option<String>,
    endpoint: Option<String>,
}

impl ModelChoice {
    fn demands(self) -> Result<Vec<Demand>, LocateError> {
        let invalid = |name: &str, value: &str, expected| LocateError::Invalid {
            name: name.to_owned(),
            value: shown(&format!("'{value}'")),
            expected,
        };
        let mut demands = Vec::new();
        if let Some(endpoint) = &self.endpoint {
            demands.extend(uses(endpoint));
        }
        if let Some(provider) = self.provider.as_ref().filter(|provider| !provider::is_word(provider)) {
            return Err(invalid("provider", provider, "a provider's name"));
        }
        // MLflow calls `PROVIDER:/MODEL`; a model that is such a URI itself has two readings.
        if let Some(model) = self.model.as_ref().filter(|model| model.contains(":/")) {
            return Err(invalid("model", model, "the name of a model, without its provider"));
        }
        if let (Some(provider), Some(model)) = (&self.provider, &self.model)
            && provider.eq_ignore_ascii_case("gateway")
        {
            demands.extend(uses(model));
        }
        if let (Some(provider), None) = (&self.provider, &self.secret) {
            // `gateway` refers to an endpoint, for which USE is demanded above.
            let own = if provider.eq_ignore_ascii_case("gateway") { None } else { provider::privilege_of(provider) };
            demands.extend(own.map(Demand::Privileged));
            let model = provider::Model { provider: provider.clone(), name: self.model.clone().unwrap_or_default() };
            demands.extend(
                provider::StoredSecret::default()
                    .addresses(&model)
                    .into_iter()
                    .map(Connection::Address)
                    .map(Demand::from),
            );
        }
        if let Some(id) = self.secret {
            if !is_opaque_id(&id) {
                return Err(invalid("secret_id", &id, "the ID of a secret"));
            }
            demands.push(Demand::Located(Located {
                permission: Permission::Use,
                thing: Thing::Secret,
                id: id.clone(),
            }));
            demands.push(Connection::Secret { id, provider: self.provider.unwrap_or_default() }.into());
        }
        Ok(demands)
    }
}

/// The tag that schedules issue detection for an experiment (`mlflow/genai/discovery/schedule.py`, 3.18), and the tags in which
/// MLflow stores its progress.
const SCHEDULE: &str = "mlflow.issueDetection.schedule";

const SCHEDULERS_OWN: [&str; 4] = [
    "mlflow.issueDetection.scheduleState",
    "mlflow.issueDetection.checkpoint",
    // The tags of online scoring.
    "mlflow.latestOnlineScoring.trace.checkpoint",
    "mlflow.latestOnlineScoring.session.checkpoint",
];

/// Returns the demands of setting a tag, or of deleting one if there is no value. MLflow's scheduler uses the resources in the
/// schedule with its own privileges.
pub(super) fn schedule_tag(key: &str, value: Option<&str>) -> Result<Vec<Demand>, LocateError> {
    // Some databases compare keys without case and trailing blanks.
    let is = |tag: &str| key.trim_end().eq_ignore_ascii_case(tag);
    if SCHEDULERS_OWN.iter().any(|tag| is(tag)) {
        return Ok(vec![Demand::Privileged("set or delete the state of MLflow's schedulers")]);
    }
    let Some(value) = value.filter(|_| is(SCHEDULE)) else { return Ok(Vec::new()) };
    let malformed = |name: &str| LocateError::Invalid {
        name: name.to_owned(),
        value: shown(value),
        expected: "a schedule of issue detection, a JSON object as MLflow's pages write it",
    };
    let written = canonical(value.as_bytes()).map_err(|_| malformed(SCHEDULE))?;
    let mut schedule = Json::open(&written)?;
    let model = match member(&mut schedule, "model")? {
        None => return Ok(Vec::new()),
        Some(model @ Json::Object(_)) => model,
        Some(_) => return Err(malformed("model")),
    };
    let text = |name: &str| match model.get(name) {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Some(_) => Err(malformed(name)),
    };
    let choice = ModelChoice {
        provider: text("provider")?,
        model: text("model")?,
        secret: text("secretId")?,
        endpoint: text("endpointName")?,
    };
    choice.demands()
}
