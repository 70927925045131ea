//! What of a query is allowed is what is sent, and read again it asks for nothing else; what was dropped is not answered.
//!
//! The input is a body, or a query with perhaps a line `%%` and its variables behind it, another one and MLflow's answer.
#![no_main]

use std::borrow::Cow;

use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::mlflow::{Ask, GraphqlQuery, Json, Verdict, canonical};
use serde_json::{Value, json};

/// Ours in the text that is sent; clients may not use it.
const PRIVATE: &str = "mlflowAuthProxy";
const ANSWER: &str = r#"{"data":{},"errors":null}"#;
/// A query that is written out may be longer than it came, but not by far: its values may have 1 MiB, and a letter of them
/// is written as seven at most.
const LONGEST: usize = 8 * 1024 * 1024;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    let (body, answer) = parts(text);
    let Ok(query) = GraphqlQuery::parse(body.as_bytes()) else { return };
    let all = vec![Verdict::Keep; query.fields().len()];
    let some: Vec<Verdict> = query.fields().iter().enumerate().map(|(at, field)| verdict(at, &field.ask)).collect();
    for verdicts in [all, some] {
        check(&query, &verdicts);
        check_answer(&query, &verdicts, answer);
    }
});

fn parts(text: &str) -> (Cow<'_, str>, &str) {
    if canonical(text.as_bytes()).is_ok_and(|text| Json::open(&text).is_ok()) {
        return (text.into(), ANSWER);
    }
    let mut parts = text.split("\n%%\n");
    let query = parts.next().unwrap_or_default();
    let variables = parts.next().unwrap_or("null");
    let answer = parts.next().unwrap_or(ANSWER);
    (format!(r#"{{"query":{},"variables":{variables}}}"#, json!(query)).into(), answer)
}

/// Something of everything, by what it is about.
fn verdict(at: usize, ask: &Ask) -> Verdict {
    match ask {
        Ask::Experiments(ids) => Verdict::Experiments(ids.iter().step_by(2).cloned().collect()),
        _ if at.is_multiple_of(2) => Verdict::Drop,
        _ => Verdict::Keep,
    }
}

fn check(query: &GraphqlQuery, verdicts: &[Verdict]) {
    let allowed: Vec<(&str, Ask)> = query
        .fields()
        .iter()
        .zip(verdicts)
        .filter_map(|(field, verdict)| Some((&*field.key, left(&field.ask, verdict)?)))
        .collect();
    let sent = query.rewrite(verdicts);
    assert_eq!(sent.is_some(), !allowed.is_empty());
    let Some(sent) = sent else { return };
    assert!(sent.len() <= LONGEST, "{} bytes", sent.len());
    let text = serde_json::from_slice::<Value>(&sent).expect("what is sent is JSON");
    assert_eq!(text.as_object().map(|members| members.len()), Some(1), "no variables, no other operation");
    let too_long = text["query"].as_str().is_none_or(|text| text.len() > 64 * 1024);
    if too_long || text.to_string().contains(PRIVATE) {
        return;
    }
    let again = GraphqlQuery::parse(&sent).expect("what is sent is read");
    assert!(again.fields().iter().map(|field| (&*field.key, field.ask.clone())).eq(allowed), "{text}");
    // Members of objects may have come in another order.
    let all = again.rewrite(&vec![Verdict::Keep; again.fields().len()]).expect("something was allowed");
    assert_eq!(letters(&all), letters(&sent), "{text}");
}

fn letters(text: &[u8]) -> Vec<u8> {
    let mut letters = text.to_vec();
    letters.sort_unstable();
    letters
}

/// What is left of a question after the verdict on it.
fn left(ask: &Ask, verdict: &Verdict) -> Option<Ask> {
    match (verdict, ask) {
        (Verdict::Drop, _) | (_, Ask::Nothing) => None,
        (Verdict::Experiments(kept), Ask::Experiments(ids)) => {
            let ids: Vec<String> = ids.iter().filter(|id| kept.contains(id)).cloned().collect();
            (!ids.is_empty()).then_some(Ask::Experiments(ids))
        }
        (Verdict::Experiments(_), _) => None,
        (Verdict::Keep, ask) => Some(ask.clone()),
    }
}

fn check_answer(query: &GraphqlQuery, verdicts: &[Verdict], answer: &str) {
    let Ok(given) = query.answer(verdicts, Some(answer.as_bytes()), |name| name == "mine") else { return };
    let given: Value = serde_json::from_slice(&given).expect("the answer is JSON");
    let Some(data) = given["data"].as_object() else { return };
    assert!(data.keys().all(|key| query.fields().iter().any(|field| field.key == *key)), "{given}");
    assert_eq!(data.len(), query.fields().len(), "{given}");
    for (field, verdict) in query.fields().iter().zip(verdicts) {
        assert!(left(&field.ask, verdict).is_some() || data[&field.key].is_null(), "{given}");
    }
    assert!(!given.to_string().contains(PRIVATE) || answer.contains(PRIVATE), "{given}");
}
