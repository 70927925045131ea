//! JSON has one spelling: what is sent is read again as the same tree, and another parser reads it as it reads the original.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::mlflow::{Json, MAX_DEPTH, canonical};
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let Ok(sent) = canonical(input) else { return };
    assert_eq!(canonical(sent.as_bytes()).expect("what is sent is accepted"), sent);
    if let Ok(json) = Json::open(&sent) {
        check(&json, 0);
        assert_eq!(json.to_text(), sent);
    }
    // It may refuse both, for a number that it cannot hold.
    let read = |text: &[u8]| serde_json::from_slice::<Value>(text).ok();
    assert_eq!(read(sent.as_bytes()), read(input));
});

fn check(json: &Json<'_>, depth: usize) {
    assert!(depth <= MAX_DEPTH);
    match json {
        Json::Scalar(text) => assert!(is_word(text) || is_number(text), "{text:?}"),
        Json::String(_) | Json::Closed(_) => {}
        Json::Array(items) => items.iter().for_each(|item| check(&item.expect("canonical"), depth + 1)),
        Json::Object(members) => {
            let mut keys = HashSet::new();
            for (key, value) in members {
                assert!(keys.insert(key) && !key.starts_with('['), "{key:?}");
                check(value, depth + 1);
            }
        }
    }
}

fn is_word(text: &str) -> bool {
    matches!(text, "null" | "true" | "false")
}

/// Neither spaces nor `NaN` nor anything that would end the value.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte))
}
