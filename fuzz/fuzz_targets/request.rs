//! What is decided about is what is sent: the request that goes to MLflow is found, located and judged as the original was.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use http::{HeaderMap, Method, uri::PathAndQuery};
use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::http::{CanonicalPath, Query};
use mlflow_auth_proxy::mlflow::{
    BodyMode, Demand, Found, Input, Json, Keep, Located, Narrowed, Need, Operation, Source, Table, Unknown, demands,
    locate, narrow, sign,
};
use mlflow_auth_proxy_fuzz::{camel, request};

static TABLE: LazyLock<Table> = LazyLock::new(|| Table::built_in().expect("the table this program is built with"));

fuzz_target!(|input: &[u8]| {
    let Some((head, body)) = request(input) else { return };
    let Some(target) = head.uri.path_and_query() else { return };
    let Some(first) = read(&head.method, &head.headers, target, body) else { return };
    let target = first.target.parse().expect("what is sent is a target");
    check(&first);
    check_known(&first);
    let second = read(&head.method, &head.headers, &target, &first.body).expect("what is sent is accepted");
    assert_eq!(second, first);
});

/// A request as it goes to MLflow, and what was found in it before.
#[derive(Debug, Eq, PartialEq)]
struct Sent {
    operation: &'static str,
    located: Vec<Located>,
    missing: Option<String>,
    demanded: Vec<Demand>,
    target: String,
    body: Vec<u8>,
}

/// What MLflow finds under the names that were asked about was judged, stands first, and stands under no other name.
fn check(sent: &Sent) {
    let Ok(Json::Object(members)) = Json::open(text_of(sent)) else { return };
    let operation = TABLE.operations().iter().find(|operation| operation.name == sent.operation).expect("a row");
    let mut fields = Vec::new();
    for need in &operation.needs {
        let Need::Level { thing, field, .. } = need else { continue };
        // Keys of two parts and fields within fields are put together by the library.
        if field.source == Source::Body && field.steps.len() == 1 && field.with.is_none() {
            fields.extend(field.last().names.iter().map(|name| (*thing, name.as_str())));
        }
    }
    for (thing, name) in &fields {
        let other = camel(name);
        assert!(other == *name || members.iter().all(|(key, _)| *key != other), "{sent:?}");
        let Some((_, value)) = members.iter().find(|(key, _)| key == name) else { continue };
        for id in texts(value).into_iter().filter(|id| !id.is_empty()) {
            assert!(sent.located.iter().any(|one| one.thing == *thing && one.id == id), "{sent:?}");
        }
    }
    let is_there = members.iter().any(|(key, _)| fields.iter().any(|(_, name)| key == name));
    let is_first = members.first().is_some_and(|(first, _)| fields.iter().any(|(_, name)| first == name));
    // Of others that stand first, the rules and longer ways see to it that they do.
    let others = operation.rule.is_some() || operation.narrow.is_some() || operation.needs.len() > fields.len();
    assert!(!is_there || is_first || others, "{sent:?}");
}

/// Nothing is sent that the rebuilding would remove.
fn check_known(sent: &Sent) {
    let operation = TABLE.operations().iter().find(|operation| operation.name == sent.operation).expect("a row");
    if sent.body.is_empty() {
        return;
    }
    let mut unknown = Unknown::default();
    let again = TABLE.rebuild(operation, &mut Query::default(), Some(&sent.body), &mut unknown);
    let again = again.expect("what is sent is accepted").expect("a body");
    assert_eq!((unknown.count(), members(&again)), (0, members(text_of(sent))), "{sent:?}");
}

fn text_of(sent: &Sent) -> &str {
    std::str::from_utf8(&sent.body).expect("text")
}

/// The members of a body by name: a rule can put its field before those that the rebuilding puts first.
fn members(body: &str) -> BTreeMap<String, Json<'_>> {
    match Json::open(body).expect("an object") {
        Json::Object(members) => members.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
        other => panic!("{other:?} is no object"),
    }
}

fn texts(value: &Json<'_>) -> Vec<String> {
    match value {
        Json::String(text) => vec![text.clone().into_owned()],
        Json::Array(items) => items.iter().flat_map(|item| texts(&item.expect("canonical"))).collect(),
        Json::Scalar(_) | Json::Object(_) | Json::Closed(_) => Vec::new(),
    }
}

/// In the order of the pipeline; `None` when it is refused.
fn read(method: &Method, headers: &HeaderMap, target: &PathAndQuery, body: &[u8]) -> Option<Sent> {
    let names = target.path().contains("/3.0/mlflow/mcp-servers/");
    let path = if names { CanonicalPath::parse_names(target) } else { CanonicalPath::parse(target) }.ok()?;
    let mut query = Query::parse(target.query().unwrap_or_default()).ok()?;
    let Found::Operation { operation, params } = TABLE.find(method, path.decoded()) else { return None };
    // What is left encoded is for artifact paths, which have a target of their own.
    if path.decoded().contains('%') || matches!(operation.send, BodyMode::Graphql | BodyMode::Otlp) {
        return None;
    }
    let is_json = operation.send == BodyMode::Json;
    let body = (is_json && !body.is_empty()).then_some(body);
    let text = TABLE.rebuild(operation, &mut query, body, &mut Unknown::default()).ok()?;
    let mut json = text.as_deref().map(Json::open).transpose().ok()?;
    let mut input = Input { params: &params, headers, query: &mut query, body: json.as_mut() };
    let found = locate(operation, &mut input).ok()?;
    let demanded = demands(operation, &found.located, json.as_mut()).ok()?;
    rewrite(operation, &mut query, json.as_mut())?;
    Some(Sent {
        operation: operation.name,
        located: found.located,
        missing: found.missing,
        demanded,
        target: format!("{}?{}", path.encoded(), query.encoded()),
        body: json.map(|json| json.to_bytes()).unwrap_or_default(),
    })
}

/// What becomes of a body that was allowed: only what may be read is searched, and the author is who asks.
fn rewrite(operation: &Operation, query: &mut Query, mut json: Option<&mut Json<'_>>) -> Option<()> {
    let even = |id: &str| id.ends_with(['0', '2', '4', '6', '8']);
    let keep = |id: &str| Ok(if even(id) { Keep::Yes } else { Keep::No });
    if let Some(list) = &operation.narrow {
        // Nothing is left: MLflow is not asked.
        if narrow(list, query, json.as_deref_mut(), keep).ok()? == Narrowed::Nothing {
            return None;
        }
        narrow(list, query, json.as_deref_mut(), |id| {
            assert!(even(id), "`{id}` was not left");
            Ok(Keep::Yes)
        })
        .ok()?;
    }
    if let (Some(author), Some(json)) = (operation.author, json) {
        sign(author, json, "ada").ok()?;
    }
    Some(())
}
