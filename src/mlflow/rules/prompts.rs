//! Prompts: their tags, the models that they specify, and their optimization.

use std::borrow::Cow;

use super::super::judge;
use super::super::locate::{Located, list_of, shown, text_field};
use super::super::{Json, LocateError, PROMPT_TAG, Thing, provider};
use super::inner;
use super::scorers::{calls, stored};
use super::sources::{is_plain, one_slash};
use super::{Connection, Demand, PromptAt};
use crate::authz::Permission;

/// Returns the demands of an optimization of a prompt.
pub(super) fn optimization(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let uri = text_field(body, "source_prompt_uri")?;
    let uri = uri.ok_or_else(|| LocateError::Missing("source_prompt_uri".to_owned()))?;
    let (name, at) = prompt_version(&uri).ok_or_else(|| LocateError::Invalid {
        name: "source_prompt_uri".to_owned(),
        value: shown(&uri),
        expected: "prompts:/NAME/VERSION or prompts:/NAME@ALIAS",
    })?;
    // The result is a further version of that prompt.
    let version = Located { permission: Permission::Edit, thing: Thing::VersionOf, id: name.clone() };
    let mut demands = vec![Demand::Located(version), Connection::PromptModel { name, at }.into()];
    let experiment = text_field(body, "experiment_id")?.unwrap_or_default();
    if let Some(config) = inner(body, &["config"])? {
        if let Some(written) = text_field(config, "optimizer_config_json")?.filter(|text| !text.is_empty()) {
            let optimizer = judge::optimizer("optimizer_config_json", &written)?;
            demands.extend(calls(&optimizer));
            config.set("optimizer_config_json", Json::String(Cow::Owned(optimizer.written)));
        }
        // A name can be that of a built-in scorer or of a registered one; MLflow tries both.
        let names = list_of(config, "scorers")?.into_iter();
        demands.extend(names.map(|name| stored(&experiment, name, None)));
    }
    Ok(demands)
}

/// Returns the demands of a tag of a model or prompt.
pub(super) fn tag(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let key = text_field(body, "key")?.ok_or_else(|| LocateError::Missing("key".to_owned()))?;
    // Models and prompts have separate grants, and this tag turns one into the other. Only administrators are allowed to set
    // it.
    let moves = key.trim_end().eq_ignore_ascii_case(PROMPT_TAG);
    Ok(moves.then_some(Demand::Privileged("set or delete the tag `mlflow.prompt.is_prompt`")).into_iter().collect())
}

/// Returns the demands of a tag of a version, which can specify a model.
pub(super) fn version_tag(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let (name, key) = (text_field(body, "name")?.unwrap_or_default(), text_field(body, "key")?.unwrap_or_default());
    let value = text_field(body, "value")?.unwrap_or_default();
    Ok(model_tag(&name, &key, &value).into_iter().collect())
}

pub(super) fn model_tag(name: &str, key: &str, value: &str) -> Option<Demand> {
    let demand = || Connection::PromptModelTag { name: name.to_owned(), written: value.to_owned() }.into();
    is_prompt_model_tag(key).then(demand)
}

/// Returns true if a tag of a prompt version specifies its model. Some databases compare keys without case and trailing spaces.
#[must_use]
pub fn is_prompt_model_tag(key: &str) -> bool {
    key.trim_end().eq_ignore_ascii_case(provider::PROMPT_MODEL_TAG)
}

/// Parses the name of a prompt and the reference to one of its versions.
fn prompt_version(uri: &str) -> Option<(String, PromptAt)> {
    let path = one_slash(uri.strip_prefix("prompts:")?)?;
    if !is_plain(path) {
        return None;
    }
    match path.split('/').collect::<Vec<_>>()[..] {
        [name, version] => Some((name.to_owned(), PromptAt::Version(version.to_owned()))),
        [only] => only.rsplit_once('@').map(|(name, alias)| (name.to_owned(), PromptAt::Alias(alias.to_owned()))),
        _ => None,
    }
}

/// Returns the name and the version in a request to optimize a prompt.
///
/// # Errors
///
/// The body does not match the operation's types.
pub fn optimized_prompt(body: &mut Json<'_>) -> Result<Option<(String, PromptAt)>, LocateError> {
    Ok(text_field(body, "source_prompt_uri")?.as_deref().and_then(prompt_version))
}

/// Replaces the alias in a request to optimize a prompt with the version that was checked, because an alias can move before the
/// job runs.
pub fn pin_prompt(body: &mut Json<'_>, name: &str, version: &str) {
    body.set("source_prompt_uri", Json::String(Cow::Owned(format!("prompts:/{name}/{version}"))));
}
