//! The golden matrix: which caller is allowed which operation. A change of policy is a diff that a person can approve.
//!
//! Each cell is one request to a running proxy. `yes` means that the request reached MLflow or was answered without it, `-` that
//! the proxy refused it with 401 or 403; any other status is shown. The fake MLflow answers the look-ups, so a run belongs to
//! experiment 1, an endpoint has an ID, and so on: the matrix covers the path from the request to the decision.

use std::time::Duration;

use mlflow_auth_proxy::authz::{Grant, Limits, Permission, ResourceKind, Selector, Subject};
use mlflow_auth_proxy::clock::Clock;
use mlflow_auth_proxy::crypto::AccessToken;
use mlflow_auth_proxy::mlflow::{Feature, Field, Need, Operation, Source, Table, Thing};
use mlflow_auth_proxy::store::NewToken;
use serde_json::{Map, Value, json};

use crate::harness::{Proxy, Received, Recorder, actor, basic};

const ROUTES: &str = include_str!("../../src/mlflow/routes.toml");
const REQUESTS: &str = include_str!("../../src/mlflow/requests.toml");
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
    let mut text = format!("{:<52}", "");
    text.extend(CALLERS.iter().map(|name| format!("{name:<13}")));
    for row in matrix() {
        text += &format!("\n{:<52}", row.name);
        text.extend(row.cells.iter().map(|cell| format!("{cell:<13}")));
    }
    let trimmed: Vec<&str> = text.lines().map(str::trim_end).collect();
    insta::assert_snapshot!(trimmed.join("\n"));
}

/// Each need alone decides: a caller with every other right is refused, and is not where the need is missing.
#[test]
fn each_need_of_each_route_decides() {
    let table = Table::built_in().expect("the built-in table");
    let paths: Vec<&str> = ROUTES.lines().filter_map(|line| line.strip_prefix("route = ")).collect();
    let most = table.operations().iter().map(|operation| operation.needs.len()).max().expect("rows");
    let mlflow = Recorder::scripted(answer_of_either);
    let reviewed = Callers::of(Proxy::before(mlflow.address));
    let mut wrong = Vec::new();
    // Each row loses one need, so that one proxy is enough for all rows.
    for index in 0..most {
        let changed = Table::parse(&without_need(index), REQUESTS).expect("a table");
        let changed = Callers::of(Proxy::with_table(mlflow.address, changed, |_| {}));
        for (operation, path) in table.operations().iter().zip(&paths) {
            let Some(need) = operation.needs.get(index) else { continue };
            // All callers of this test are signed in, and a closed feature can have an answer of its own.
            if matches!(need, Need::Public | Need::SignedIn) || operation.closed.is_some() {
                continue;
            }
            let path = path.trim_matches('"');
            let mut tried = Vec::new();
            let decides = ways_to_lack(need).into_iter().any(|(lacks, strange)| {
                let request = request(operation, path, &Map::new(), strange);
                let (with, without) = (reviewed.ask(lacks, &request), changed.ask(lacks, &request));
                let decides = with == "-" && without != "-";
                tried.push(format!("{with} with it, {without} without it"));
                decides
            });
            if !decides {
                wrong.push(format!("{}, need {index}: {}", operation.name, tried.join("; ")));
            }
        }
    }
    let is_repeated = |name: &String| REPEATED.iter().any(|(repeated, _)| name.starts_with(repeated));
    let (repeated, wrong): (Vec<String>, Vec<String>) = wrong.into_iter().partition(is_repeated);
    assert_eq!((wrong, repeated.len()), (Vec::new(), REPEATED.len()));
}

/// Needs that a rule of the same row repeats, so that the row stays closed without them.
const REPEATED: [(&str, &str); 5] = [
    ("RegisterScorer, need 1:", "the rule demands that the name is not denied"),
    ("InvokeScorer, need 2:", "the traces in the request require the same; without traces it decides"),
    ("InvokeIssueDetection, need 2:", "the rule demands USE on the secret"),
    ("InvokeIssueDetection, need 3:", "the rule demands USE on the endpoint"),
    ("ListGatewayEndpointBindings, need 1:", "a request that names no endpoint is for administrators"),
];

/// A caller who has every right but one.
#[derive(Clone, Copy)]
enum Lacks {
    /// Has MANAGE on the resources that [`sample`] names, and on no other.
    OthersResources,
    /// Has DENY on this kind, and MANAGE on all others.
    Kind(ResourceKind),
    /// Has MANAGE on all resources, and a token for one experiment.
    NewResources,
    Administration,
    /// An administrator, while the feature is closed.
    Feature,
}

/// The callers who lack what a need demands, and the field in which the request names a resource of others.
fn ways_to_lack(need: &Need) -> Vec<(Lacks, Option<&Field>)> {
    match need {
        Need::Level { thing, field, .. } => {
            let owner = thing.owner_kind();
            let kind = |kind| (Lacks::Kind(kind), None);
            // Two needs can name the same resource by one field, and differ in the tier.
            [(Lacks::OthersResources, Some(field))]
                .into_iter()
                .chain(owner.tier.map(kind))
                .chain([kind(owner.kind)])
                .collect()
        }
        Need::Create(kind) => vec![(Lacks::NewResources, None), (Lacks::Kind(*kind), None)],
        Need::NotDenied(kind) | Need::Tier(_, kind) => vec![(Lacks::Kind(*kind), None)],
        Need::Admin => vec![(Lacks::Administration, None)],
        Need::Blocked(_) => vec![(Lacks::Feature, None)],
        Need::Public | Need::SignedIn => Vec::new(),
    }
}

/// A proxy with these callers.
struct Callers {
    proxy: Proxy,
    at_home: String,
    manager: String,
    scoped: String,
    denied: Vec<(ResourceKind, String)>,
}

impl Callers {
    fn of(proxy: Proxy) -> Self {
        let everything = grants(&[(Scope::Kinds, Permission::Manage)]);
        let kinds = ResourceKind::ALL.into_iter().filter(|kind| *kind != ResourceKind::Workspace);
        let denied = kinds.map(|kind| {
            let mut grants: Vec<_> = everything.iter().copied().filter(|(granted, _)| *granted != kind).collect();
            grants.push((kind, Permission::Deny));
            (kind, user(&proxy, &format!("denied-{kind}"), &grants, &Limits::default()))
        });
        let denied = denied.collect();
        let resources = [(ResourceKind::Experiment, "1".to_owned())].into();
        let scoped = user(&proxy, "scoped", &everything, &Limits { resources, ..Limits::default() });
        let manager = user(&proxy, "manager", &everything, &Limits::default());
        let at_home = proxy.user("at-home", &HOME.map(|(kind, key)| (kind, key, Permission::Manage)));
        Self { proxy, at_home, manager, scoped, denied }
    }

    fn ask(&self, lacks: Lacks, request: &str) -> String {
        let caller = match lacks {
            Lacks::OthersResources => &self.at_home,
            Lacks::Kind(kind) => &self.denied.iter().find(|(denied, _)| *denied == kind).expect("a caller").1,
            Lacks::NewResources => &self.scoped,
            Lacks::Administration => &self.manager,
            Lacks::Feature => &basic(),
        };
        let answer = self.proxy.ask(request.replace("{authorization}", caller)).expect("an answer");
        match answer.status {
            401 | 403 => "-".to_owned(),
            other => other.to_string(),
        }
    }
}

/// The resources that [`sample`] names.
const HOME: [(ResourceKind, &str); 12] = [
    (ResourceKind::Experiment, "1"),
    (ResourceKind::RegisteredModel, "fraud"),
    (ResourceKind::Prompt, "fraud"),
    (ResourceKind::Scorer, "1/judge"),
    (ResourceKind::GatewaySecret, "s-1"),
    (ResourceKind::GatewayEndpoint, "e-1"),
    (ResourceKind::GatewayModelDefinition, "md-1"),
    (ResourceKind::McpServer, "acme/tools"),
    (ResourceKind::Skill, "helper"),
    (ResourceKind::Skill, "@helper/helper"),
    (ResourceKind::Skill, "@x/helper"),
    (ResourceKind::Job, "j-1"),
];

/// The same names of resources that belong to others: at home, and elsewhere.
const ELSEWHERE: [(&str, &str); 21] = [
    (RUN, "cccccccccccccccccccccccccccccccc"),
    (LOGGED_MODEL, "m-dddddddddddddddddddddddddddddddd"),
    ("tr-1", "tr-2"),
    ("d-1", "d-2"),
    ("iss-1", "iss-2"),
    ("ls-1", "ls-2"),
    ("rq-1", "rq-2"),
    ("pj-1", "pj-2"),
    ("os-1", "os-2"),
    ("s-1", "s-2"),
    ("md-1", "md-2"),
    ("e-1", "e-2"),
    ("g-1", "g-2"),
    ("j-1", "j-2"),
    ("fraud", "fraud-2"),
    ("tools", "tools-2"),
    ("helper", "helper-2"),
    ("chat", "chat-2"),
    ("one", "two"),
    ("1/x", "2/x"),
    ("1", "2"),
];

fn elsewhere(home: &str) -> &'static str {
    let found = ELSEWHERE.iter().find(|(at_home, _)| *at_home == home);
    found.map_or_else(|| panic!("{home} has no namesake elsewhere"), |(_, elsewhere)| elsewhere)
}

/// MLflow's answer about a resource at home, or about its namesake elsewhere.
fn answer_of_either(request: &Received) -> Option<(u16, String)> {
    let mut at_home = request.clone();
    let mut strange = false;
    for (home, elsewhere) in ELSEWHERE.iter().filter(|(home, _)| *home != "1") {
        strange |= at_home.target.contains(elsewhere);
        at_home.target = at_home.target.replace(elsewhere, home);
    }
    for name in ["experiment_id", "experiment_ids"] {
        let (home, elsewhere) = (format!("{name}=1"), format!("{name}=2"));
        strange |= at_home.target.contains(&elsewhere);
        at_home.target = at_home.target.replace(&elsewhere, &home);
    }
    let (status, mut told) = answer(&at_home)?;
    if strange {
        for (home, elsewhere) in ELSEWHERE.iter().filter(|(home, _)| !["1", "one", "1/x"].contains(home)) {
            told = told.replace(&format!("\"{home}\""), &format!("\"{elsewhere}\""));
        }
        told = told.replace("\"experiment_id\":\"1\"", "\"experiment_id\":\"2\"");
        told = told.replace("\"experiment_ids\":[\"1\"]", "\"experiment_ids\":[\"2\"]");
        told = told.replace("\"experiment_id\":1", "\"experiment_id\":2");
        told = told.replace("mlflow-artifacts:/1/", "mlflow-artifacts:/2/").replace("acme/tools\"", "acme/tools-2\"");
    }
    Some((status, told))
}

fn needs_of(line: &str) -> Option<Vec<String>> {
    // A list of strings is the same in TOML and in JSON.
    Some(serde_json::from_str(line.strip_prefix("needs = ")?).expect("a list on one line"))
}

/// The table of routes in which each row lacks the need with this index. A row without another one becomes open to all
/// signed-in callers, or closed if it was open.
fn without_need(index: usize) -> String {
    let line = |line: &str| {
        let Some(mut needs) = needs_of(line).filter(|needs| index < needs.len()) else { return line.to_owned() };
        let removed = needs.remove(index);
        if needs.is_empty() {
            let is_open = removed == "PUBLIC" || removed == "SIGNED-IN";
            needs.push(if is_open { "ADMIN" } else { "SIGNED-IN" }.to_owned());
        }
        format!("needs = {needs:?}")
    };
    ROUTES.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The callers of the matrix.
const CALLERS: [&str; 11] =
    ["nothing", "DENY", "READ", "USE", "EDIT", "MANAGE", "READ+tiers", "MANAGE-tiers", "read-only", "admin", "opened"];

struct Row {
    /// The operation and its variant.
    name: String,
    /// One for each caller.
    cells: Vec<String>,
}

/// Sends the request of each operation as each caller.
fn matrix() -> Vec<Row> {
    let mlflow = Recorder::scripted(answer);
    let proxy = Proxy::before(mlflow.address);
    let opened = Proxy::with(mlflow.address, |config| config.authz.opened = EVERY_FEATURE.to_vec());
    let with = |name: &str, levels: &[(Scope, Permission)], read_only: bool| {
        (&proxy, user(&proxy, name, &grants(levels), &Limits { read_only, ..Limits::default() }))
    };
    let callers = [
        with("nothing", &[], false),
        with("denied", &[(Scope::Kinds, Permission::Deny)], false),
        with("reader", &[(Scope::Kinds, Permission::Read)], false),
        with("caller", &[(Scope::Kinds, Permission::Use)], false),
        with("editor", &[(Scope::Kinds, Permission::Edit)], false),
        with("owner", &[(Scope::Kinds, Permission::Manage)], false),
        with("tiers", &[(Scope::Kinds, Permission::Read), (Scope::Tiers, Permission::Manage)], false),
        with("untiered", &[(Scope::Kinds, Permission::Manage), (Scope::Tiers, Permission::Deny)], false),
        with("program", &[(Scope::Kinds, Permission::Manage)], true),
        (&proxy, basic()),
        (&opened, basic()),
    ];
    let table = Table::built_in().expect("the built-in table");
    let paths = ROUTES.lines().filter_map(|line| line.strip_prefix("route = "));
    let mut rows = Vec::new();
    for (operation, route) in table.operations().iter().zip(paths) {
        let mut variants = vec![("", Map::new())];
        variants.extend(variants_of(operation.name));
        for (variant, extra) in variants {
            let request = request(operation, route.trim_matches('"'), &extra, None);
            let cell = |(proxy, authorization): &(&Proxy, String)| {
                let answer = proxy.ask(request.replace("{authorization}", authorization)).expect("an answer");
                match answer.status {
                    401 | 403 => "-".to_owned(),
                    200..300 => "yes".to_owned(),
                    other => other.to_string(),
                }
            };
            let name = format!("{} {variant}", operation.name);
            rows.push(Row { name, cells: callers.iter().map(cell).collect() });
        }
    }
    rows
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
fn user(proxy: &Proxy, name: &str, grants: &[(ResourceKind, Permission)], limits: &Limits) -> String {
    let store = proxy.store();
    let token = AccessToken::generate();
    proxy.block_on(async {
        let user = store.create_user(&actor(), name, None, false).await.expect("a user");
        for (kind, permission) in grants {
            let selector = Selector::parse(*kind, "*").expect("a selector");
            let grant = Grant { subject: Subject::User(user.id), kind: *kind, selector, permission: *permission };
            store.create_grant(&actor(), &grant).await.expect("a grant");
        }
        let expires = Clock::default().now().plus(Duration::from_secs(3600));
        let new = NewToken { user: user.id, name: "test", hash: token.hash(), limits, expires };
        store.create_token(&actor(), new).await.expect("a token");
        store.close().await;
    });
    format!("Bearer {}", token.reveal())
}

/// A request that names one existing thing in each field that the table's row needs. `strange`: a field that names one of
/// others.
fn request(operation: &Operation, route: &str, extra: &Map<String, Value>, strange: Option<&Field>) -> String {
    let (methods, path) = route.split_once(' ').expect("a method and a path");
    let method = methods.split(',').next().expect("a method");
    let mut parts = Parts { path: path.to_owned(), ..Parts::default() };
    for (_, thing, field) in operation.named() {
        let is_strange = strange.is_some_and(|strange| std::ptr::eq(strange, field));
        parts.name(thing, field, is_strange);
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
    /// `strange`: it belongs to others.
    fn name(&mut self, thing: Thing, field: &Field, strange: bool) {
        let value = sample(thing);
        let of_server = matches!(thing, Thing::McpServer | Thing::McpServerVersion | Thing::NewMcpServerVersion);
        let value = if strange && !of_server { elsewhere(value) } else { value };
        let with_of = |thing| if strange && of_server { elsewhere(with_of(thing)) } else { with_of(thing) };
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
        "InvokeIssueDetection" => json!({ "provider": "openai", "model": "gpt" }),
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
        "gateway/secrets/get" => {
            json!({ "secret": { "secret_id": "s-1", "secret_name": "key", "provider": "openai",
            "masked_values": { "api_key": "sk-***" } } })
        }
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
