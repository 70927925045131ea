//! The golden matrix: which caller is allowed which operation. A change of policy is a diff that a person can approve.
//!
//! Each cell is one request to a running proxy. `yes` means that the request reached MLflow or was answered without it, `-` that
//! the proxy refused it with 401 or 403; any other status is shown. The fake MLflow answers the look-ups, so a run belongs to
//! experiment 1, an endpoint has an ID, and so on: the matrix covers the path from the request to the decision.

use std::time::Duration;

use mlflow_auth_proxy::authz::{Grant, Limits, Permission, ResourceKind, Selector, Subject};
use mlflow_auth_proxy::clock::Clock;
use mlflow_auth_proxy::crypto::AccessToken;
use mlflow_auth_proxy::mlflow::{Feature, Field, Operation, Source, Table, Thing};
use mlflow_auth_proxy::store::NewToken;
use serde_json::{Map, Value, json};

use crate::harness::{Proxy, Received, Recorder, actor, basic};

const ROUTES: &str = include_str!("../../src/mlflow/routes.toml");
const RUN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const LOGGED_MODEL: &str = "m-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const SCORER: &str =
    r#"{"name":"judge","builtin_scorer_class":"Safety","builtin_scorer_pydantic_data":{"name":"judge"}}"#;
const CALLING_SCORER: &str = r#"{"name":"judge","instructions_judge_pydantic_data":{"model":"gateway:/chat"}}"#;
const SCHEDULE: &str = r#"{"enabled":true,"model":{"endpointName":"chat"}}"#;
const EVERY_FEATURE: [Feature; 5] =
    [Feature::Assistant, Feature::JobSubmission, Feature::Demo, Feature::GatewayProxy, Feature::UpstreamMetrics];

#[test]
fn each_caller_is_allowed_what_was_reviewed() {
    let mlflow = Recorder::scripted(answer);
    let proxy = Proxy::before(mlflow.address);
    let opened = Proxy::with(mlflow.address, |config| config.authz.opened = EVERY_FEATURE.to_vec());
    let any = |levels: &[(Scope, Permission)]| grants(levels);
    let callers = [
        ("nothing", &proxy, user(&proxy, "nothing", &[], false)),
        ("DENY", &proxy, user(&proxy, "denied", &any(&[(Scope::Kinds, Permission::Deny)]), false)),
        ("READ", &proxy, user(&proxy, "reader", &any(&[(Scope::Kinds, Permission::Read)]), false)),
        ("USE", &proxy, user(&proxy, "caller", &any(&[(Scope::Kinds, Permission::Use)]), false)),
        ("EDIT", &proxy, user(&proxy, "editor", &any(&[(Scope::Kinds, Permission::Edit)]), false)),
        ("MANAGE", &proxy, user(&proxy, "owner", &any(&[(Scope::Kinds, Permission::Manage)]), false)),
        (
            "READ+tiers",
            &proxy,
            user(&proxy, "tiers", &any(&[(Scope::Kinds, Permission::Read), (Scope::Tiers, Permission::Manage)]), false),
        ),
        (
            "MANAGE-tiers",
            &proxy,
            user(
                &proxy,
                "untiered",
                &any(&[(Scope::Kinds, Permission::Manage), (Scope::Tiers, Permission::Deny)]),
                false,
            ),
        ),
        ("read-only", &proxy, user(&proxy, "program", &any(&[(Scope::Kinds, Permission::Manage)]), true)),
        ("admin", &proxy, basic()),
        ("opened", &opened, basic()),
    ];
    let table = Table::built_in().expect("the built-in table");
    let routes = ROUTES.lines().filter_map(|line| line.strip_prefix("route = "));
    let mut text = format!("{:<52}", "");
    text.extend(callers.iter().map(|(name, ..)| format!("{name:<13}")));
    for (operation, route) in table.operations().iter().zip(routes) {
        let mut variants = vec![("", Map::new())];
        variants.extend(variants_of(operation.name));
        for (variant, extra) in variants {
            text += &format!("\n{:<52}", format!("{} {variant}", operation.name));
            let request = request(operation, route.trim_matches('"'), &extra);
            for (_, proxy, authorization) in &callers {
                let answer = proxy.ask(request.replace("{authorization}", authorization)).expect("an answer");
                let cell = match answer.status {
                    401 | 403 => "-".to_owned(),
                    200..300 => "yes".to_owned(),
                    other => other.to_string(),
                };
                text += &format!("{cell:<13}");
            }
        }
    }
    let trimmed: Vec<&str> = text.lines().map(str::trim_end).collect();
    insta::assert_snapshot!(trimmed.join("\n"));
}

/// The resources that a caller's grants name.
#[derive(Clone, Copy)]
enum Scope {
    Kinds,
    Tiers,
}

fn grants(levels: &[(Scope, Permission)]) -> Vec<(ResourceKind, Permission)> {
    let of = |&(scope, permission): &(Scope, Permission)| {
        let is_meant = move |kind: &ResourceKind| {
            *kind != ResourceKind::Workspace
                && match scope {
                    Scope::Kinds => !kind.is_tier(),
                    Scope::Tiers => kind.is_tier(),
                }
        };
        ResourceKind::ALL.into_iter().filter(is_meant).map(move |kind| (kind, permission))
    };
    levels.iter().flat_map(of).collect()
}

/// Creates a user with grants on all resources of some kinds. Returns the value of `Authorization`.
fn user(proxy: &Proxy, name: &str, grants: &[(ResourceKind, Permission)], read_only: bool) -> String {
    let store = proxy.store();
    let token = AccessToken::generate();
    proxy.block_on(async {
        let user = store.create_user(&actor(), name, None, false).await.expect("a user");
        for (kind, permission) in grants {
            let selector = Selector::parse(*kind, "*").expect("a selector");
            let grant = Grant { subject: Subject::User(user.id), kind: *kind, selector, permission: *permission };
            store.create_grant(&actor(), &grant).await.expect("a grant");
        }
        let limits = Limits { read_only, ..Limits::default() };
        let expires = Clock::default().now().plus(Duration::from_secs(3600));
        let new = NewToken { user: user.id, name: "test", hash: token.hash(), limits: &limits, expires };
        store.create_token(&actor(), new).await.expect("a token");
        store.close().await;
    });
    format!("Bearer {}", token.reveal())
}

/// A request that names one existing thing in each field that the table's row needs.
fn request(operation: &Operation, route: &str, extra: &Map<String, Value>) -> String {
    let (methods, path) = route.split_once(' ').expect("a method and a path");
    let method = methods.split(',').next().expect("a method");
    let mut parts = Parts { path: path.to_owned(), ..Parts::default() };
    for (_, thing, field) in operation.named() {
        parts.name(thing, field);
    }
    for (name, value) in further_fields(operation.name).into_iter().chain(extra.clone()) {
        match name.strip_prefix("query.") {
            Some(name) => parts.query.push((name.to_owned(), value.as_str().expect("text").to_owned())),
            None => merge(&mut parts.body, name, value),
        }
    }
    parts.fill_path();
    parts.write(method)
}

#[derive(Default)]
struct Parts {
    path: String,
    query: Vec<(String, String)>,
    headers: String,
    body: Map<String, Value>,
}

impl Parts {
    fn name(&mut self, thing: Thing, field: &Field) {
        let value = sample(thing);
        let name = field.name();
        match field.source {
            Source::Path => {
                for marker in [format!("{{{name}}}"), format!("{{*{name}}}")] {
                    self.path = self.path.replace(&marker, value);
                }
                if let Some(with) = &field.with {
                    self.path = self.path.replace(&format!("{{{with}}}"), with_of(thing));
                }
            }
            Source::Query => {
                self.query.push((name.to_owned(), value.to_owned()));
                if let Some(with) = &field.with {
                    self.query.push((with.clone(), with_of(thing).to_owned()));
                }
            }
            Source::Header => self.headers += &format!("{name}: {value}\r\n"),
            Source::Body => {
                let mut inner = json!(value);
                for (index, step) in field.steps.iter().enumerate().rev() {
                    if step.each {
                        inner = json!([inner]);
                    }
                    let mut object = Map::new();
                    object.insert(step.names[0].clone(), inner);
                    if let Some(with) = field.with.as_ref().filter(|_| index + 1 == field.steps.len()) {
                        object.insert(with.clone(), json!(with_of(thing)));
                    }
                    inner = Value::Object(object);
                }
                if let Value::Object(members) = inner {
                    members.into_iter().for_each(|(name, value)| merge(&mut self.body, name, value));
                }
            }
        }
    }

    /// Gives every parameter of the path that no need names a value that MLflow would accept.
    fn fill_path(&mut self) {
        while let Some((before, rest)) = self.path.clone().split_once('{') {
            let (name, after) = rest.split_once('}').expect("a closed parameter");
            let value = match name.trim_start_matches('*') {
                "version" => "1",
                "file_path" | "path" => "x",
                _ => "a",
            };
            self.path = format!("{before}{value}{after}");
        }
    }

    fn write(&self, method: &str) -> String {
        let query: Vec<String> = self.query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let target = if query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, query.join("&")) };
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: proxy\r\nAuthorization: {{authorization}}\r\n{}",
            self.headers
        );
        if method == "GET" {
            return format!("{head}\r\n");
        }
        let body = Value::Object(self.body.clone()).to_string();
        format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }
}

fn merge(body: &mut Map<String, Value>, name: String, value: Value) {
    match (body.get_mut(&name), value) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            new.into_iter().for_each(|(name, value)| merge(old, name, value));
        }
        (Some(Value::Array(old)), Value::Array(new)) => {
            for (index, value) in new.into_iter().enumerate() {
                match (old.get_mut(index), value) {
                    (Some(Value::Object(old)), Value::Object(new)) => {
                        new.into_iter().for_each(|(name, value)| merge(old, name, value));
                    }
                    (Some(old), new) => *old = new,
                    (None, new) => old.push(new),
                }
            }
        }
        (_, value) => {
            body.insert(name, value);
        }
    }
}

fn encoded(value: &str) -> String {
    value.replace('%', "%25").replace(' ', "%20").replace('/', "%2F").replace(':', "%3A")
}

/// A value that names an existing thing.
fn sample(thing: Thing) -> &'static str {
    match thing {
        Thing::Experiment | Thing::TracesOf | Thing::AssessmentsOf => "1",
        Thing::ExperimentName => "one",
        Thing::Run => RUN,
        Thing::LoggedModel => LOGGED_MODEL,
        Thing::Trace | Thing::AssessmentOf => "tr-1",
        Thing::Dataset => "d-1",
        Thing::Issue => "iss-1",
        Thing::LabelSchema => "ls-1",
        Thing::ReviewQueue => "rq-1",
        Thing::ReviewQueueName => "1",
        Thing::PromptJob => "pj-1",
        Thing::OnlineScorer => "os-1",
        Thing::Model | Thing::VersionOf => "fraud",
        Thing::Scorer | Thing::ScorerVersion => "1",
        Thing::Secret => "s-1",
        Thing::Endpoint => "e-1",
        Thing::EndpointName => "chat",
        Thing::ModelDefinition => "md-1",
        Thing::Guardrail => "g-1",
        Thing::McpServer | Thing::McpServerVersion | Thing::NewMcpServerVersion => "acme",
        Thing::Skill | Thing::NewSkill => "helper",
        Thing::Job => "j-1",
        Thing::Artifact => "1/x",
    }
}

/// The value of the second field of a key.
fn with_of(thing: Thing) -> &'static str {
    match thing {
        Thing::Scorer | Thing::ScorerVersion => "judge",
        Thing::ReviewQueueName => "queue",
        Thing::McpServer | Thing::McpServerVersion | Thing::NewMcpServerVersion => "tools",
        Thing::Skill | Thing::NewSkill => "helper",
        Thing::Experiment
        | Thing::TracesOf
        | Thing::AssessmentsOf
        | Thing::ExperimentName
        | Thing::Run
        | Thing::LoggedModel
        | Thing::Trace
        | Thing::AssessmentOf
        | Thing::Dataset
        | Thing::Issue
        | Thing::LabelSchema
        | Thing::ReviewQueue
        | Thing::PromptJob
        | Thing::OnlineScorer
        | Thing::Model
        | Thing::VersionOf
        | Thing::Secret
        | Thing::Endpoint
        | Thing::EndpointName
        | Thing::ModelDefinition
        | Thing::Guardrail
        | Thing::Job
        | Thing::Artifact => "x",
    }
}

/// Fields beside those of the needs that an operation cannot do without.
fn further_fields(operation: &str) -> Map<String, Value> {
    let value = match operation {
        "CreateExperiment" | "CreateRegisteredModel" | "CreateSkill" => json!({ "name": "new" }),
        "UpdateExperiment" | "RenameRegisteredModel" => json!({ "new_name": "new" }),
        "CreateModelVersion" => json!({ "source": format!("runs:/{RUN}/model") }),
        "SetRegisteredModelTag" | "DeleteRegisteredModelTag" => json!({ "key": "team" }),
        "BatchGetTraces" | "BatchGetTraceInfos" => json!({ "query.trace_ids": "tr-1", "trace_ids": ["tr-1"] }),
        "ExportTraces" => {
            json!({ "resourceSpans": [{ "scopeSpans": [{ "spans": [{ "traceId": "0af7651916cd43dd8448eb211c80319c",
            "spanId": "b7ad6b7169203331", "name": "s", "startTimeUnixNano": "1", "endTimeUnixNano": "2" }] }] }] })
        }
        "RegisterScorer" => json!({ "name": "judge", "serialized_scorer": SCORER }),
        "CreatePromptOptimizationJob" => json!({ "source_prompt_uri": "prompts:/fraud/1" }),
        "CreateGatewaySecret" => {
            json!({ "secret_name": "new", "provider": "openai", "secret_value": { "api_key": "x" } })
        }
        "CreateGatewayModelDefinition" => json!({ "name": "new", "provider": "openai", "model_name": "gpt" }),
        "CreateGatewayEndpoint" => json!({ "name": "new", "usage_tracking": false }),
        "CreateMcpServer" => json!({ "name": "acme/new" }),
        "BulkRegisterSkills" => json!({ "skills": [{ "name": "new" }] }),
        "GraphQl" => {
            json!({ "query": "query Q { mlflowGetExperiment(input: {experimentId: \"1\"}) { experiment { name } } }" })
        }
        _ => json!({}),
    };
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// Further rows of an operation, whose rule asks for more than the table's row.
fn variants_of(operation: &str) -> Vec<(&'static str, Map<String, Value>)> {
    let variants: Vec<(&'static str, Value)> = match operation {
        "CreateExperiment" => vec![
            ("at a location", json!({ "artifact_location": "s3://bucket/x" })),
            ("with a schedule", json!({ "tags": [{ "key": "mlflow.issueDetection.schedule", "value": SCHEDULE }] })),
        ],
        "SetExperimentTag" => {
            vec![("of a schedule", json!({ "key": "mlflow.issueDetection.schedule", "value": SCHEDULE }))]
        }
        "CreateModelVersion" => vec![
            ("from another place", json!({ "source": "s3://bucket/x" })),
            ("from a logged model", json!({ "source": format!("models:/{LOGGED_MODEL}") })),
        ],
        "SetRegisteredModelTag" | "DeleteRegisteredModelTag" => {
            vec![("that makes a prompt", json!({ "key": "mlflow.prompt.is_prompt", "value": "true" }))]
        }
        "DeleteScorer" => vec![("in one version", json!({ "version": 1 }))],
        "UpdateReviewQueue" => vec![("to another owner", json!({ "new_owner": "owner" }))],
        "CreateReviewQueue" => vec![("with a user's name", json!({ "name": "owner", "queue_type": "CUSTOM" }))],
        "StartTraceV3" => vec![
            (
                "with an artifact location",
                json!({ "trace": { "trace_info": { "tags": { "mlflow.artifactLocation": "x" } } } }),
            ),
            (
                "with assessments",
                json!({ "trace": { "trace_info": { "trace_id": "tr-1", "assessments": [{ "assessment_name": "a" }] } } }),
            ),
        ],
        "SetTraceTag" | "SetTraceTagV3" => {
            vec![("of its artifacts", json!({ "key": "mlflow.artifactLocation", "value": "x" }))]
        }
        "CreateGatewaySecret" => vec![(
            "for a private address",
            json!({ "provider": "openai", "auth_config": { "api_base": "http://10.0.0.1/" } }),
        )],
        "CreateWebhook" => vec![("to a private address", json!({ "url": "http://10.0.0.1/", "name": "w" }))],
        "RegisterScorer" => vec![("that calls an endpoint", json!({ "serialized_scorer": CALLING_SCORER }))],
        "CreateGatewayEndpoint" => vec![("with its use recorded", json!({ "usage_tracking": true }))],
        "UpdateSkillVersion" => vec![("deleted", json!({ "status": "deleted" }))],
        _ => Vec::new(),
    };
    let members = |(name, value)| match value {
        Value::Object(members) => (name, members),
        _ => (name, Map::new()),
    };
    variants.into_iter().map(members).collect()
}

/// What MLflow answers to the look-ups. Every other request gets an empty object.
fn answer(request: &Received) -> Option<(u16, String)> {
    let path = request.target.split('?').next().unwrap_or_default().replace("%40", "@");
    if path == "/graphql" {
        return Some((
            200,
            json!({ "data": { "mlflowGetExperiment": { "experiment": { "name": "one" } } } }).to_string(),
        ));
    }
    let api = path.strip_prefix("/api/2.0/mlflow/").or_else(|| path.strip_prefix("/api/3.0/mlflow/"))?;
    let experiment = json!({ "experiment_id": "1", "name": "one", "artifact_location": "mlflow-artifacts:/1" });
    let artifacts = |id: &str| format!("mlflow-artifacts:/1/{id}/artifacts");
    let trace = json!({ "trace_id": "tr-1", "request_id": "tr-1", "experiment_id": "1",
        "trace_location": { "type": "MLFLOW_EXPERIMENT", "mlflow_experiment": { "experiment_id": "1" } } });
    let scorer = json!({ "experiment_id": 1, "scorer_name": "judge", "scorer_id": "os-1", "scorer_version": 1,
        "serialized_scorer": SCORER });
    let endpoint = json!({ "endpoint_id": "e-1", "name": "chat", "model_mappings": [] });
    let queue = json!({ "queue_id": "rq-1", "experiment_id": "1", "name": "queue", "queue_type": "CUSTOM", "users": [],
        "created_by": "none" });
    let created = json!({ "experiment_id": "9", "registered_model": { "name": "new" }, "secret": { "secret_id": "s-9" },
        "endpoint": { "endpoint_id": "e-9" }, "model_definition": { "model_definition_id": "md-9" }, "name": "acme/new",
        "review_queue": queue, "job": { "job_id": "j-9" }, "version": 1 });
    let answer = match api {
        "skills/new" | "mcp-servers/acme/new" => return Some((404, "{}".to_owned())),
        "skills" if request.method == "GET" => json!({ "skills": [] }),
        _ if request.method == "POST" && api.contains("create") => created,
        "mcp-servers" | "skills" | "prompt-optimization/jobs" if request.method == "POST" => created,
        "experiments/get" | "experiments/get-by-name" => json!({ "experiment": experiment }),
        "experiments/search" => json!({ "experiments": [experiment] }),
        "runs/get" => {
            json!({ "run": { "info": { "run_id": RUN, "experiment_id": "1", "artifact_uri": artifacts(RUN) } } })
        }
        "registered-models/get" => json!({ "registered_model": { "name": "fraud" } }),
        "model-versions/get" | "registered-models/alias" => {
            json!({ "model_version": { "name": "fraud", "version": "1" } })
        }
        "datasets/d-1/experiment-ids" => json!({ "experiment_ids": ["1"] }),
        "issues/iss-1" => json!({ "issue": { "issue_id": "iss-1", "experiment_id": "1" } }),
        "label-schemas/get" => json!({ "label_schema": { "schema_id": "ls-1", "experiment_id": "1" } }),
        "prompt-optimization/jobs/pj-1" => json!({ "job": { "job_id": "pj-1", "experiment_id": "1" } }),
        "scorers/online-configs" => json!({ "configs": [{ "experiment_id": "1" }] }),
        "scorers/list" => json!({ "scorers": [scorer] }),
        "scorers/get" => json!({ "scorer": scorer }),
        "review-queues/get" | "review-queues/get-by-name" => json!({ "review_queue": queue }),
        "gateway/endpoints/get" => json!({ "endpoint": endpoint }),
        "gateway/endpoints/list" => json!({ "endpoints": [endpoint] }),
        "gateway/secrets/get" => json!({ "secret": { "secret_id": "s-1", "secret_name": "key" } }),
        "gateway/model-definitions/get" => {
            json!({ "model_definition": { "model_definition_id": "md-1", "name": "md", "provider": "openai",
                "model_name": "gpt", "secret_id": "s-1" } })
        }
        "gateway/guardrails/get" => json!({ "guardrail": { "guardrail_id": "g-1", "scorer": scorer } }),
        "mcp-servers/acme/tools" => json!({ "name": "acme/tools", "allowed_actions": [] }),
        "skills/helper" | "skills/@helper/helper" | "skills/@x/helper" => {
            json!({ "name": "helper", "organization": "", "allowed_actions": [] })
        }
        "traces/tr-1" => json!({ "trace": { "trace_info": trace } }),
        "traces/tr-1/info" => json!({ "trace_info": trace }),
        "traces/batchGetInfos" => json!({ "trace_infos": [trace] }),
        other if other == format!("logged-models/{LOGGED_MODEL}") => {
            json!({ "model": { "info": { "model_id": LOGGED_MODEL, "experiment_id": "1", "artifact_uri": artifacts("m") } } })
        }
        _ => json!({}),
    };
    Some((200, answer.to_string()))
}
