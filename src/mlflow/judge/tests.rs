use super::{Judge, optimizer, steers};

#[track_caller]
fn read(text: &str) -> Judge {
    let judge = Judge::read("serialized_scorer", text).expect(text);
    let again = Judge::read("serialized_scorer", &judge.written).expect("what is sent is accepted");
    assert_eq!(again, judge, "{text}");
    judge
}

#[test]
fn a_judge_keeps_its_known_members_and_parameters() {
    let judge = read(
        r#"{"name":"j","odd":1,"instructions_judge_pydantic_data":{"instructions":"{{ outputs }}","model":"openai:/gpt-4",
           "base_url":"http://127.0.0.1","inference_params":{"temperature":0.50,"model":"ep-alice","api_base":"x","extra_headers":{}}}}"#,
    );
    let kept = r#"{"name":"j","instructions_judge_pydantic_data":{"instructions":"{{ outputs }}","model":"openai:/gpt-4","inference_params":{"temperature":0.50}}}"#;
    assert_eq!(judge.written, kept);
    assert_eq!((judge.name.as_deref(), judge.endpoints), (Some("j"), vec![]));
    let judge = read(
        r#"{"builtin_scorer_class":"Guidelines","builtin_scorer_pydantic_data":{"guidelines":["be nice"],"model":null,
           "extra_headers":{"Authorization":"x"},"base_url":"http://x","inference_params":null,"required_columns":["inputs"]}}"#,
    );
    assert!(!judge.written.contains("extra_headers") && !judge.written.contains("base_url"), "{}", judge.written);
    assert!(judge.written.contains(r#""guidelines":["be nice"],"model":null"#), "{}", judge.written);
}

#[test]
fn every_place_that_names_an_endpoint_is_found() {
    for (text, endpoints) in [
        (r#"{"instructions_judge_pydantic_data":{"model":"gateway:/a"}}"#, &["a"][..]),
        (r#"{"instructions_judge_pydantic_data":{"model":"gateway:///a"}}"#, &["a"]),
        (r#"{"builtin_scorer_class":"Safety","builtin_scorer_pydantic_data":{"model":"Gateway:/a b"}}"#, &["a b"]),
        (r#"{"third_party_scorer_data":{"module":"mlflow.genai.scorers.ragas","model":"gateway:/a"}}"#, &["a"]),
        (
            r#"{"memory_augmented_judge_data":{"reflection_lm":"gateway:/a","embedding_model":"gateway:/b"}}"#,
            &["a", "b"],
        ),
        (
            r#"{"ensemble_scorer_data":{"scorers":[{"instructions_judge_pydantic_data":{"model":"gateway:/a"}},
               {"memory_augmented_judge_data":{"base_judge":{"instructions_judge_pydantic_data":{"model":"gateway:/b"}}}}]}}"#,
            &["a", "b"],
        ),
        (r#"{"description":"gateway:/a"}"#, &["a"]),
    ] {
        assert_eq!(read(text).endpoints, endpoints, "{text}");
    }
    let judge = read(r#"{"memory_augmented_judge_data":{"episodic_trace_ids":["tr-1","tr-2"]}}"#);
    assert_eq!(judge.traces, ["tr-1", "tr-2"]);
}

#[test]
fn a_model_on_loopback_is_found_wherever_it_is_named() {
    for (text, address) in [
        (r#"{"instructions_judge_pydantic_data":{"model":"ollama:/m"}}"#, "http://localhost:11434"),
        (r#"{"memory_augmented_judge_data":{"embedding_model":"Ollama_chat:/m"}}"#, "http://localhost:11434"),
        (r#"{"third_party_scorer_data":{"model":"vllm:/m"}}"#, "http://localhost:8000"),
        (
            r#"{"builtin_scorer_class":"Safety","builtin_scorer_pydantic_data":{"model":"huggingface:/https://x/y"}}"#,
            "https://x/y",
        ),
    ] {
        assert!(read(text).addresses.iter().any(|found| found == address), "{text}");
    }
    let optimizer = optimizer("optimizer_config_json", r#"{"reflection_model":"ollama:/m"}"#).expect("an optimizer");
    assert_eq!(optimizer.addresses, ["http://localhost:11434"]);
    assert_eq!(
        read(r#"{"instructions_judge_pydantic_data":{"model":"openai:/gpt"}}"#).addresses,
        ["https://api.openai.com"]
    );
}

#[test]
fn a_third_partys_arguments_choose_no_model() {
    let written = |kwargs: &str| {
        let text = format!(
            r#"{{"third_party_scorer_data":{{"module":"mlflow.genai.scorers.ragas","class":"Faithfulness","kwargs":{kwargs}}}}}"#
        );
        read(&text)
    };
    let judge =
        written(r#"{"llm":"bedrock/x","model_uri":"bedrock:/x","metric_name":"x","provider":"y","threshold":0.5}"#);
    assert!(judge.written.ends_with(r#""kwargs":{"threshold":0.5}}}"#), "{}", judge.written);
    assert_eq!(judge.privilege, None);
    assert!(written(r#"{"anything":"bedrock:/x"}"#).privilege.is_some());
}

#[test]
fn what_is_no_scorer_is_refused_at_every_depth() {
    for inner in [
        r#"{"builtin_scorer_class":"invoke_judge_model"}"#,
        r#"{"builtin_scorer_class":"safety"}"#,
        r#"{"builtin_scorer_class":["Safety"]}"#,
        r#"{"builtin_scorer_pydantic_data":[]}"#,
        r#"{"third_party_scorer_data":{"module":"os"}}"#,
        r#"{"third_party_scorer_data":{"module":"mlflow.genai.scorers"}}"#,
        r#"{"instructions_judge_pydantic_data":{"model":"../x:/y"}}"#,
        r#"{"instructions_judge_pydantic_data":{"model":5}}"#,
        r#"{"instructions_judge_pydantic_data":{"inference_params":"x"}}"#,
        r#"{"memory_augmented_judge_data":{"episodic_trace_ids":"x"}}"#,
        r#"{"ensemble_scorer_data":{"scorers":{}}}"#,
        r#"{"name":"a","name":"b"}"#,
        r#"{"name":5}"#,
        "[]",
        "5",
    ] {
        for text in [
            inner.to_owned(),
            format!(r#"{{"ensemble_scorer_data":{{"scorers":[{inner}]}}}}"#),
            format!(r#"{{"memory_augmented_judge_data":{{"base_judge":{inner}}}}}"#),
        ] {
            assert!(Judge::read("serialized_scorer", &text).is_err(), "{text}");
        }
    }
    let deep = (0..20)
        .fold("{}".to_owned(), |inner, _| format!(r#"{{"memory_augmented_judge_data":{{"base_judge":{inner}}}}}"#));
    assert!(Judge::read("serialized_scorer", &deep).is_err());
    assert!(Judge::read("serialized_scorer", "not JSON").is_err());
}

#[test]
fn a_third_partys_arguments_choose_no_host_key_or_model() {
    let judge = read(
        r#"{"third_party_scorer_data":{"module":"mlflow.genai.scorers.deepeval","class":"X","kwargs":{"threshold":0.5,
           "api_key":"k","model_kwargs":{"temperature":1,"model":"m","base_url":"u"},"more":[{"api_base":"u","n":1}]}}}"#,
    );
    let kept = r#"{"third_party_scorer_data":{"module":"mlflow.genai.scorers.deepeval","class":"X","kwargs":{"threshold":0.5,"model_kwargs":{"temperature":1},"more":[{"n":1}]}}}"#;
    assert_eq!(judge.written, kept);
}

#[test]
fn an_optimizer_keeps_its_known_parameters() {
    let text = r#"{"reflection_model":"gateway:/a","max_metric_calls":5,"lm_kwargs":{"temperature":1,"api_base":"http://x"},
                   "gepa_kwargs":{"seed":1,"run_dir":"/tmp","wandb_api_key":"k"}}"#;
    let found = optimizer("optimizer_config_json", text).expect("an optimizer");
    let kept = r#"{"reflection_model":"gateway:/a","max_metric_calls":5,"lm_kwargs":{"temperature":1},"gepa_kwargs":{"seed":1}}"#;
    assert_eq!((found.written.as_str(), found.endpoints), (kept, vec!["a".to_owned()]));
    for odd in ["[]", r#"{"lm_kwargs":[]}"#, r#"{"gepa_kwargs":1}"#, r#"{"reflection_model":"a/b:/c"}"#] {
        assert!(optimizer("optimizer_config_json", odd).is_err(), "{odd}");
    }
}

#[test]
fn arguments_that_steer_are_told_from_those_that_shape_an_answer() {
    for key in ["api_base", "Base_URL", " api_key ", "aws_anything", "vertex_location", "langfuse_host", "my_endpoint"]
    {
        assert!(steers(key), "{key}");
    }
    let shaping = ["messages", "temperature", "prompt_cache_key", "user", "metadata", "tools", "tool_choice", "stream"];
    for key in
        shaping.into_iter().chain(["input", "instructions", "max_tokens", "system", "contents", "generationConfig"])
    {
        assert!(!steers(key), "{key}");
    }
}
