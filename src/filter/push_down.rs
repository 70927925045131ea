//! A list of what somebody may read, asked of MLflow as such: `AND experiment_id IN ('1', '2')`.
//!
//! MLflow 3.17 on finds the rows by their index, so a page costs what the caller may read and not what exists. Every row
//! of the answer is still checked: a filter of the client's that defeats the condition gains slowness only.

use crate::authz::Visibility;
use crate::mlflow::Filter;
use crate::upstream::Version;

/// MLflow 3.17.2 takes 4000 and refuses 5000.
const MAX_KEYS: usize = 4000;
const SINCE: Version = Version::release(3, 17);

/// The condition for what `visible` names, one for each of the filter's kinds; `None` when it cannot be asked so.
pub(super) fn condition(filter: Filter, version: Option<Version>, visible: &[Visibility]) -> Option<String> {
    version.filter(|version| *version >= SINCE)?;
    let column = match filter {
        Filter::Experiments => "experiment_id",
        Filter::RegisteredModels => "name",
        Filter::ModelVersions
        | Filter::Scorers
        | Filter::ReviewQueues
        | Filter::Secrets
        | Filter::Endpoints
        | Filter::ModelDefinitions
        | Filter::EndpointModels
        | Filter::McpServers
        | Filter::McpEndpoints
        | Filter::Jobs => return None,
    };
    let mut keys: Vec<&str> = Vec::new();
    for visible in visible {
        match visible {
            Visibility::Only(only) => keys.extend(only.iter().map(String::as_str)),
            Visibility::All | Visibility::PerRow => return None,
        }
    }
    keys.sort_unstable();
    keys.dedup();
    let plain = |key: &&str| {
        !key.is_empty()
            && key.chars().all(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_' | '.' | '/' | ':' | '@' | '+'))
    };
    if keys.is_empty() || keys.len() > MAX_KEYS || !keys.iter().all(plain) {
        return None;
    }
    let quoted: Vec<String> = keys.into_iter().map(|key| format!("'{key}'")).collect();
    Some(format!("{column} IN ({})", quoted.join(", ")))
}

/// The client's filter and the condition. `None` when it is not certain that both are read as they stand: then the
/// client's filter goes alone, and MLflow's own complaint about it reaches the client.
pub(super) fn conjunction(theirs: Option<&str>, condition: &str) -> Option<String> {
    let theirs = theirs.unwrap_or_default().trim();
    if theirs.is_empty() {
        return Some(condition.to_owned());
    }
    let odd = theirs.contains(['\\', ';', '#']) || theirs.contains("--") || theirs.contains("/*");
    (!odd && is_balanced(theirs)).then(|| format!("{theirs} AND {condition}"))
}

fn is_balanced(text: &str) -> bool {
    let mut open = None;
    for letter in text.chars() {
        match (open, letter) {
            (None, '\'' | '"' | '`') => open = Some(letter),
            (Some(quote), _) if quote == letter => open = None,
            _ => {}
        }
    }
    open.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(keys: &[&str]) -> Visibility {
        Visibility::Only(keys.iter().map(|key| (*key).to_owned()).collect())
    }

    #[test]
    fn what_may_be_read_becomes_a_condition_where_mlflow_knows_it() {
        let version = Some(Version::release(3, 17));
        let some = only(&["1", "20"]);
        assert_eq!(
            condition(Filter::Experiments, version, std::slice::from_ref(&some)).as_deref(),
            Some("experiment_id IN ('1', '20')")
        );
        let both = [only(&["fraud", "a b"]), only(&["prompt", "fraud"])];
        assert_eq!(
            condition(Filter::RegisteredModels, version, &both).as_deref(),
            Some("name IN ('a b', 'fraud', 'prompt')")
        );
        for (filter, version, visible) in [
            (Filter::Experiments, None, some.clone()),
            (Filter::Experiments, Some(Version::release(3, 16)), some.clone()),
            (Filter::Experiments, version, Visibility::PerRow),
            (Filter::RegisteredModels, version, only(&["it's"])),
            (Filter::ModelVersions, version, some),
        ] {
            assert_eq!(condition(filter, version, &[visible]), None);
        }
        let many: Vec<String> = (0..=MAX_KEYS).map(|number| number.to_string()).collect();
        assert_eq!(condition(Filter::Experiments, version, &[Visibility::Only(many)]), None);
    }

    #[test]
    fn a_filter_that_could_swallow_the_condition_goes_alone() {
        assert_eq!(conjunction(None, "c").as_deref(), Some("c"));
        assert_eq!(conjunction(Some(" "), "c").as_deref(), Some("c"));
        assert_eq!(conjunction(Some("name = 'x'"), "c").as_deref(), Some("name = 'x' AND c"));
        assert_eq!(conjunction(Some("name = \"it's\""), "c").as_deref(), Some("name = \"it's\" AND c"));
        for filter in
            ["name = 'x", "name = \"x", "name = `x", "name = 'x\\'", "name = 'x' --", "name = 'x' /*", "a = 'b';"]
        {
            assert_eq!(conjunction(Some(filter), "c"), None, "{filter}");
        }
    }
}
