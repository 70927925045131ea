use super::{Model, StoredSecret, of_definition, of_secret};
use crate::mlflow::{Connection, Demand, Json};

fn demands(body: &str) -> Result<Vec<Demand>, String> {
    let mut json = Json::open(body).expect("JSON");
    of_secret(&mut json).map_err(|error| error.to_string())
}

fn stored(provider: &str, auth_config: &[(&str, &str)], keys: &[&str]) -> StoredSecret {
    StoredSecret {
        provider: Some(provider.to_owned()).filter(|provider| !provider.is_empty()),
        auth_config: auth_config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        secret_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
    }
}

fn model(provider: &str, name: &str) -> Model {
    Model { provider: provider.to_owned(), name: name.to_owned() }
}

#[test]
fn what_a_secret_needs_follows_from_its_keys() {
    let address = |text: &str| Demand::from(Connection::Address(text.to_owned()));
    for (body, expected) in [
        (r#"{"secret_value":{"api_key":"sk-1"},"auth_config":{"api_version":"1"}}"#, vec![]),
        (r#"{"auth_config":{"api_base":"https://x"}}"#, vec![address("https://x")]),
        (r#"{"auth_config":{"api_base":""}}"#, vec![]),
        (
            r#"{"auth_config":{"aws_region_name":"eu-west-1","vertex_project":"a-b:c.d","auth_mode":"access_keys"}}"#,
            vec![],
        ),
        (r#"{"auth_config":{"auth_mode":"default_chain"}}"#, vec![super::SERVER_IDENTITY]),
        (r#"{"auth_config":{"aws_role_name":"arn:aws:iam::1:role/x"}}"#, vec![super::SERVER_IDENTITY]),
        (
            r#"{"auth_config":{"API_BASE":"http://x"}}"#,
            vec![Demand::Privileged("set this key of a secret's auth_config"), address("http://x")],
        ),
        (r#"{"auth_config":{"rpm":"5"}}"#, vec![Demand::Privileged("set this key of a secret's auth_config")]),
        (r#"{"secret_value":{"model_list":"[]"}}"#, vec![Demand::Privileged("set this key of a secret's value")]),
        (
            r#"{"secret_value":{"vertex_credentials":"{\"type\":\"service_account\",\"token_uri\":\"http://x\"}"}}"#,
            vec![address("http://x")],
        ),
        (r#"{"secret_value":{"vertex_credentials":"{\"project_id\":\"p\"}"}}"#, vec![]),
    ] {
        assert_eq!(demands(body), Ok(expected), "{body}");
    }
}

#[test]
fn what_would_become_a_part_of_a_host_or_a_path_is_refused() {
    for body in [
        r#"{"auth_config":{"aws_region_name":"x.example/"}}"#,
        r#"{"auth_config":{"vertex_location":"127.0.0.1:1/"}}"#,
        r#"{"auth_config":{"vertex_project":"../x"}}"#,
        r#"{"secret_value":{"api_key":"$HOME"}}"#,
        r#"{"secret_value":{"api_key":""}}"#,
        r#"{"secret_value":{"api_key":"/etc/passwd"}}"#,
        r#"{"secret_value":{"vertex_credentials":"/etc/x.json"}}"#,
        r#"{"secret_value":{"vertex_credentials":"{\"type\":\"external_account\"}"}}"#,
        r#"{"secret_value":{"vertex_credentials":"{\"universe_domain\":\"x.example\"}"}}"#,
        r#"{"secret_value":{"vertex_credentials":"{\"token_uri\":5}"}}"#,
        r#"{"secret_value":{"vertex_credentials":"{\"token_uri\":\"https://a\",\"token_uri\":\"https://b\"}"}}"#,
    ] {
        let error = demands(body).expect_err(body);
        assert!(!error.contains("$HOME") && !error.contains("/etc"), "a secret is in the message: {error}");
    }
}

#[test]
fn a_stored_secret_leads_where_its_values_say() {
    assert_eq!(stored("openai", &[], &[]).addresses(&model("openai", "gpt")), ["https://api.openai.com"]);
    let region = [("aws_region_name", "eu-west-1")];
    assert_eq!(
        stored("", &region, &[]).addresses(&model("bedrock", "m")),
        ["https://bedrock-runtime.eu-west-1.amazonaws.com"]
    );
    assert_eq!(stored("", &[("api_base", "http://x")], &[]).addresses(&model("openai", "")), ["http://x"]);
    assert_eq!(stored("", &[], &[]).addresses(&model("Ollama", "m")), ["http://localhost:11434"]);
    assert_eq!(stored("", &[("api_base", "https://x")], &[]).addresses(&model("ollama", "m")), ["https://x"]);
    assert_eq!(
        stored("", &[("base_url", "http://x")], &[]).addresses(&model("cohere", "m")),
        ["http://x", "https://api.cohere.ai"]
    );
    assert_eq!(stored("", &[("aws_region_name", "x.example/")], &[]).addresses(&model("bedrock", "m")), ["x.example/"]);
    let of_model = stored("", &[], &[]).addresses(&model("huggingface", "https://x/y"));
    assert_eq!(of_model, ["https://x/y", "https://router.huggingface.co"]);
    // What is at a public address of a provider is allowed by default, each provider's own address among it.
    for (provider, address) in super::PUBLIC {
        assert_eq!(super::super::ProviderHosts::public().check(address), Ok(()), "{provider}");
    }
    for host in ["bedrock-runtime.eu-west-1.amazonaws.com", "europe-west1-aiplatform.googleapis.com"] {
        assert_eq!(super::super::ProviderHosts::public().check(&format!("https://{host}")), Ok(()), "{host}");
    }
    for host in
        ["bedrock-runtime.a.b.amazonaws.com", "bedrock-runtime..amazonaws.com", "x-aiplatform.googleapis.com.example"]
    {
        assert!(super::super::ProviderHosts::public().check(&format!("https://{host}")).is_err(), "{host}");
    }
}

#[test]
fn a_secret_fits_its_provider_and_brings_its_own_credentials() {
    for (secret, provider) in [
        (stored("openai", &[], &["api_key"]), "openai"),
        (stored("openai", &[], &["api_key"]), "azure"),
        (stored("", &[], &["api_key"]), "anthropic"),
        (stored("bedrock", &[], &["api_key"]), "amazon-bedrock"),
        (
            stored("bedrock", &[("auth_mode", "access_keys")], &["aws_access_key_id", "aws_secret_access_key"]),
            "bedrock",
        ),
        (stored("vertex_ai", &[], &["vertex_credentials"]), "vertex_ai"),
        (stored("databricks", &[("api_base", "https://x")], &["api_key"]), "databricks-model-serving"),
        (
            stored(
                "",
                &[("api_base", "https://x"), ("auth_mode", "oauth_m2m"), ("client_id", "c")],
                &["client_secret"],
            ),
            "databricks",
        ),
        (stored("", &[], &[]), "ollama"),
    ] {
        assert_eq!(secret.privilege(provider), None, "{secret:?} {provider}");
    }
    for (secret, provider) in [
        (stored("openai", &[], &["api_key"]), "openrouter"),
        (stored("vertex_ai", &[], &["api_key"]), "vertex_ai"),
        (stored("bedrock", &[("auth_mode", "default_chain")], &["api_key"]), "bedrock"),
        (stored("bedrock", &[("auth_mode", "access_keys")], &["api_key"]), "bedrock"),
        (stored("databricks", &[], &["api_key"]), "databricks"),
        (stored("", &[("auth_mode", "iam_role")], &["api_key"]), "sagemaker"),
        (stored("", &[], &["aws_access_key_id"]), "sagemaker_chat"),
        (stored("", &[("auth_mode", "")], &["api_key"]), "bedrock"),
        (stored("", &[("auth_mode", "pat_token")], &["api_key"]), "bedrock"),
        (stored("", &[], &["api_key"]), "Bedrock"),
        (stored("", &[], &["vertex_credentials"]), "vertex_ai_beta"),
        (stored("", &[("api_base", "https://x")], &["client_secret"]), "databricks"),
        (stored("", &[("api_base", "https://x"), ("auth_mode", "oauth_m2m")], &["client_secret"]), "databricks"),
        (stored("", &[], &["client_secret"]), "cohere"),
        (stored("", &[], &["api_key"]), "langchain"),
        (stored("", &[("api_base", "https://api.openai.com")], &["api_key"]), "custom"),
    ] {
        assert!(secret.privilege(provider).is_some(), "{secret:?} {provider}");
    }
}

#[test]
fn a_model_definition_is_compared_with_its_secret() {
    let demands = |body: &str| {
        let mut json = Json::open(body).expect("JSON");
        of_definition(&mut json).map_err(|error| error.to_string())
    };
    let definition = |definition: Option<&str>, provider: Option<&str>, secret: Option<&str>| {
        Demand::from(Connection::Definition {
            definition: definition.map(str::to_owned),
            provider: provider.map(str::to_owned),
            secret: secret.map(str::to_owned),
        })
    };
    assert_eq!(
        demands(r#"{"provider":"openai","secret_id":"s-1","model_name":"gpt"}"#),
        Ok(vec![definition(None, Some("openai"), Some("s-1"))])
    );
    assert_eq!(
        demands(r#"{"model_definition_id":"d-1","secret_id":"s-1"}"#),
        Ok(vec![definition(Some("d-1"), None, Some("s-1"))])
    );
    assert_eq!(demands(r#"{"model_definition_id":"d-1","name":"n"}"#), Ok(vec![]));
    assert_eq!(
        demands(r#"{"model_definition_id":"d-1","model_name":"http://x"}"#),
        Ok(vec![Connection::Address("http://x".to_owned()).into()])
    );
    for provider in ["a/b", "..", "a:b", "a b", "ä"] {
        assert!(demands(&format!(r#"{{"provider":"{provider}"}}"#)).is_err(), "{provider}");
    }
}
