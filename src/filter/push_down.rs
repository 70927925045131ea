//! A list of what somebody may read, asked of MLflow as such: `AND experiment_id IN ('1', '2')`.
//!
//! MLflow 3.17 on finds the rows by their index, so a page costs what the caller may read and not what exists. Every row
//! of the answer is still checked: a filter of the client's that defeats the condition gains slowness only.
//!
//! MLflow's parsers have limits. A condition that would exceed one is not sent, and the list is refilled page by page.

use http::HeaderMap;

use crate::authz::Visibility;
use crate::mlflow::Filter;
use crate::upstream::Version;

/// MLflow's SQL parser (sqlparse) stops at this many tokens. A key in the list is two of them: a literal and a comma.
const MAX_TOKENS: usize = 10_000;
/// What else the condition consists of: `AND experiment_id IN (` and `)` with the whitespace between.
const OTHER_TOKENS: usize = 16;
/// The HTTP parser of MLflow's server (h11 under uvicorn) stops at a request head of 64 KiB.
const MAX_HEAD_BYTES: usize = 60 * 1024;
const SINCE: Version = Version::release(3, 17);

/// A condition that selects what may be read.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Condition {
    text: String,
    /// An upper bound of the tokens that MLflow's SQL parser reads in it.
    tokens: usize,
}

/// Builds the condition for what `visible` names, one for each of the filter's kinds; `None` when it cannot be asked so.
pub(super) fn condition(filter: Filter, version: Option<Version>, visible: &[Visibility]) -> Option<Condition> {
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
        | Filter::Skills
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
    let tokens = keys.len().saturating_mul(2) + OTHER_TOKENS;
    if keys.is_empty() || tokens > MAX_TOKENS || !keys.iter().all(plain) {
        return None;
    }
    // No space after the comma: it would be a third token.
    Some(Condition { text: format!("{column} IN ('{}')", keys.join("','")), tokens })
}

/// The skills to ask for: those that may be read, of those that the client names or of all. `None` when it cannot be asked so.
///
/// A list of nothing but an empty text selects none.
pub(super) fn identities(theirs: &[String], visible: &[Visibility]) -> Option<Vec<String>> {
    let [Visibility::Only(only)] = visible else { return None };
    let asked = |key: &&String| theirs.is_empty() || theirs.contains(key);
    let mut both: Vec<String> = only.iter().filter(asked).cloned().collect();
    if both.is_empty() {
        both.push(String::new());
    }
    Some(both)
}

/// The client's filter and the condition. `None` when it is not certain that both are read as they stand: then the
/// client's filter goes alone, and MLflow's own complaint about it reaches the client.
pub(super) fn conjunction(theirs: Option<&str>, condition: &Condition) -> Option<String> {
    let theirs = theirs.unwrap_or_default().trim();
    if theirs.is_empty() {
        return Some(condition.text.clone());
    }
    let odd = theirs.contains(['\\', ';', '#']) || theirs.contains("--") || theirs.contains("/*");
    // A token has at least one character.
    let fits = theirs.chars().count() + condition.tokens <= MAX_TOKENS;
    (!odd && fits && is_balanced(theirs)).then(|| format!("{theirs} AND {}", condition.text))
}

/// Returns true if MLflow's server reads a request head of this size.
pub(super) fn head_fits(target: &str, headers: &HeaderMap) -> bool {
    let headers = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    target.len() + headers.sum::<usize>() <= MAX_HEAD_BYTES
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
            condition(Filter::Experiments, version, std::slice::from_ref(&some)).unwrap().text,
            "experiment_id IN ('1','20')"
        );
        let both = [only(&["fraud", "a b"]), only(&["prompt", "fraud"])];
        assert_eq!(
            condition(Filter::RegisteredModels, version, &both).unwrap().text,
            "name IN ('a b','fraud','prompt')"
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
    }

    #[test]
    fn skills_are_asked_for_by_name() {
        let texts = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        let some = [only(&["@acme/review", "review"])];
        assert_eq!(identities(&[], &some), Some(texts(&["@acme/review", "review"])));
        assert_eq!(identities(&texts(&["review", "hidden"]), &some), Some(texts(&["review"])));
        assert_eq!(identities(&texts(&["hidden"]), &some), Some(texts(&[""])));
        assert_eq!(identities(&texts(&[""]), &some), Some(texts(&[""])));
        assert_eq!(identities(&[], &[Visibility::PerRow]), None);
        assert_eq!(identities(&[], &[Visibility::All]), None);
    }

    #[test]
    fn a_condition_stays_below_the_limits_of_mlflows_parsers() {
        let version = Some(Version::release(3, 17));
        let of = |count: usize| {
            let keys: Vec<String> = (0..count).map(|number| number.to_string()).collect();
            condition(Filter::Experiments, version, &[Visibility::Only(keys)])
        };
        let most = (MAX_TOKENS - OTHER_TOKENS) / 2;
        assert_eq!(of(most + 1), None);
        let condition = of(most).unwrap();
        assert!(conjunction(None, &condition).is_some());
        assert_eq!(conjunction(Some("name = 'x'"), &condition), None);
        assert!(conjunction(Some("name = 'x'"), &of(most - 5).unwrap()).is_some());
        let headers = HeaderMap::new();
        assert!(head_fits(&"x".repeat(MAX_HEAD_BYTES), &headers));
        assert!(!head_fits(&"x".repeat(MAX_HEAD_BYTES + 1), &headers));
    }

    #[test]
    fn a_filter_that_could_swallow_the_condition_goes_alone() {
        let c = Condition { text: "c".to_owned(), tokens: 1 };
        assert_eq!(conjunction(None, &c).as_deref(), Some("c"));
        assert_eq!(conjunction(Some(" "), &c).as_deref(), Some("c"));
        assert_eq!(conjunction(Some("name = 'x'"), &c).as_deref(), Some("name = 'x' AND c"));
        assert_eq!(conjunction(Some("name = \"it's\""), &c).as_deref(), Some("name = \"it's\" AND c"));
        for filter in
            ["name = 'x", "name = \"x", "name = `x", "name = 'x\\'", "name = 'x' --", "name = 'x' /*", "a = 'b';"]
        {
            assert_eq!(conjunction(Some(filter), &c), None, "{filter}");
        }
    }
}
