//! A scorer is rebuilt in one form, in which another parser finds no parameter that chooses a model, a host or a key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::mlflow::Judge;
use serde_json::Value;

fuzz_target!(|input: &str| {
    let Ok(judge) = Judge::read("serialized_scorer", input) else { return };
    let again = Judge::read("serialized_scorer", &judge.written).expect("what is sent is accepted");
    assert_eq!(again, judge);
    // It refuses numbers that it cannot hold.
    let Ok(sent) = serde_json::from_str::<Value>(&judge.written) else { return };
    check(&sent);
    let mut endpoints = Vec::new();
    names(&sent, &mut endpoints);
    for endpoint in endpoints {
        assert!(judge.endpoints.contains(&endpoint), "{endpoint} in {sent}");
    }
});

/// One scorer; those within it as well.
fn check(scorer: &Value) {
    for data in ["builtin_scorer_pydantic_data", "instructions_judge_pydantic_data", "third_party_scorer_data"] {
        let data = &scorer[data];
        assert!(data.get("base_url").is_none() && data.get("extra_headers").is_none(), "{scorer}");
        for key in data["inference_params"].as_object().into_iter().flatten().map(|(key, _)| key.as_str()) {
            assert!(!["model", "api_base", "base_url", "api_key", "extra_headers"].contains(&key), "{scorer}");
        }
    }
    if let Some(class) = scorer["builtin_scorer_class"].as_str() {
        assert!(class.starts_with(char::is_uppercase) && class != "InstructionsJudge", "{scorer}");
    }
    scorer["ensemble_scorer_data"]["scorers"].as_array().into_iter().flatten().for_each(check);
    let base = &scorer["memory_augmented_judge_data"]["base_judge"];
    if base.is_object() {
        check(base);
    }
}

/// The endpoints that MLflow would call (`_parse_model_uri`).
fn names(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            found.extend(text.strip_prefix("gateway:/").map(|name| name.trim_start_matches('/').trim_end().to_owned()));
        }
        Value::Array(items) => items.iter().for_each(|item| names(item, found)),
        Value::Object(members) => members.values().for_each(|value| names(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
