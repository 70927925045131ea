//! Restricts a list in MLflow's own query to readable rows: `AND experiment_id IN ('1', '2')`.
//!
//! MLflow 3.17 and later find the rows by index, so the cost of a page depends on the readable rows and not on all rows. Every
//! row of the response is still checked: a client filter that defeats the condition only makes the request slower.
//!
//! MLflow's parsers have limits. A condition that would exceed one is not sent, and the list is refilled page by page.

use http::HeaderMap;

use crate::authz::Visibility;
use crate::mlflow::Filter;
use crate::upstream::Version;

/// Token limit of MLflow's SQL parser (sqlparse). A key in the list counts as two: a literal and a comma.
const MAX_TOKENS: usize = 10_000;
/// Number of other tokens in the condition: `AND experiment_id IN (` and `)` with the whitespace between.
const OTHER_TOKENS: usize = 16;
/// Limit below that of the HTTP parser of MLflow's server (h11 under uvicorn), which refuses request heads of more than 64 KiB.
const MAX_HEAD_BYTES: usize = 60 * 1024;
const SINCE: Version = Version::release(3, 17);

/// A condition that selects readable rows.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Condition {
    text: String,
    /// An upper bound of the number of tokens that MLflow's SQL parser reads in it.
    tokens: usize,
}

/// Builds the condition for `visible`, which has one entry for each of the filter's kinds; returns `None` if it cannot be
/// expressed.
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
    // No space after the comma, because it would be a third token.
    Some(Condition { text: format!("{column} IN ('{}')", keys.join("','")), tokens })
}

/// Returns the skills to request: the readable ones of those that the client specifies, or of all. `None` if they cannot be
/// requested so.
///
/// A list of only an empty text selects none.
pub(super) fn identities(theirs: &[String], visible: &[Visibility]) -> Option<Vec<String>> {
    let [Visibility::Only(only)] = visible else { return None };
    let asked = |key: &&String| theirs.is_empty() || theirs.contains(key);
    let mut both: Vec<String> = only.iter().filter(asked).cloned().collect();
    if both.is_empty() {
        both.push(String::new());
    }
    Some(both)
}

/// Returns the conjunction of the client's filter and the condition. Returns `None` if MLflow may not parse both as written:
/// then only the client's filter is sent, and the client receives MLflow's own error about it.
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

/// Returns true if MLflow's server accepts a request head of this size.
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
