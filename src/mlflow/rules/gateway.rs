//! Calls through the AI gateway, and its endpoints.

use super::super::judge;
use super::super::locate::{Located, invalid, member, shown, text_field, to_front};
use super::super::{Json, LocateError, Thing, fetched};
use super::{Connection, Demand};

/// Returns the demands of an invocation: no parameter redirects it, and every address in it is allowed.
pub(super) fn invocation(located: &[Located], body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    if let Json::Object(members) = &*body
        && let Some((key, _)) = members.iter().find(|(key, _)| judge::steers(key))
    {
        let (name, value) = (shown(key), "***".to_owned());
        let expected = "left out: it is set where the endpoint is configured";
        return Err(LocateError::Invalid { name, value, expected });
    }
    let endpoints = located.iter().filter(|one| one.thing == Thing::EndpointName).map(|one| one.id.clone());
    let urls = fetched::urls(body);
    let mut demands = Vec::new();
    for endpoint in endpoints {
        demands.push(Connection::Endpoint(endpoint.clone()).into());
        if !urls.is_empty() {
            demands.push(Connection::Fetched { endpoint, urls: urls.clone() }.into());
        }
    }
    Ok(demands)
}

/// Returns the demands of an endpoint that records its usage in an experiment.
pub(super) fn usage(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    to_front(body, "usage_tracking");
    let endpoint = text_field(body, "endpoint_id")?;
    let name = text_field(body, "name")?.filter(|name| !name.is_empty());
    let chosen = text_field(body, "experiment_id")?.is_some_and(|id| !id.is_empty());
    let tracks = match member(body, "usage_tracking")? {
        // MLflow's default for a new endpoint; an existing one keeps its setting.
        None => endpoint.is_none(),
        Some(Json::Scalar("true")) => true,
        Some(Json::Scalar("false")) => false,
        Some(other) => return Err(invalid("usage_tracking", other, "true or false")),
    };
    Ok(if !tracks || chosen { Vec::new() } else { vec![Demand::UsageExperiment { name, endpoint }] })
}
