use http::header;
use serde_json::{Value, json};

use super::finding::{Finding, Outcome};
use super::*;
use crate::config::{Environment, load_from};
use crate::oidc::fake::{Answer, FakeProvider, METADATA, OTHER_RSA, RSA};

const SECRET: &str = "what-only-we-know";
const NOW: i64 = 1_800_000_000;

/// A proxy whose people sign in at this provider; `more` are further keys.
fn config(provider: &FakeProvider, more: &[(&str, &str)]) -> Config {
    let issuer = provider.issuer();
    let set = [
        ("server.public_url", "http://localhost:8080"),
        ("store.url", "sqlite::memory:"),
        ("upstream.url", "http://127.0.0.1:1"),
        ("oidc.providers.keycloak.issuer", issuer.as_str()),
        ("oidc.providers.keycloak.client_id", "mlflow"),
        ("jwt.issuers.keycloak.issuer", issuer.as_str()),
        ("jwt.issuers.keycloak.audiences", "mlflow"),
        ("jwt.issuers.keycloak.allowed_groups", "/ml/**"),
    ];
    let set = set.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let secret = [("MLFLOW_AUTH_PROXY_OIDC__PROVIDERS__KEYCLOAK__CLIENT_SECRET", SECRET)];
    load_from(&Flags { config: None, set }, &secret.into_iter().collect::<Environment>()).unwrap().0
}

/// One that takes our redirect URI and our secret.
fn provider() -> FakeProvider {
    let provider = FakeProvider::start(&[&RSA]);
    provider.answer("/realms/test/auth", Answer::Text("a form".to_owned()));
    provider.answer("/realms/test/logout", Answer::Text("signed out".to_owned()));
    refuse_code(&provider, 400, "invalid_grant");
    provider
}

fn refuse_code(provider: &FakeProvider, status: u16, error: &str) {
    let answer = json!({ "error": error });
    provider.answer("/realms/test/token", Answer::With(Arc::new(move |_| (status, answer.clone()))));
}

async fn report(provider: &FakeProvider, more: &[(&str, &str)], token: Option<&str>) -> Report {
    let clock = Clock::manual(crate::clock::Timestamp(NOW * 1000));
    examine(&config(provider, more), token, &clock).await.unwrap()
}

#[track_caller]
fn find<'r>(report: &'r Report, check: &str) -> &'r Finding {
    let found = report.findings.iter().find(|finding| finding.check == check);
    found.unwrap_or_else(|| panic!("{check} is not among {:#?}", report.findings))
}

#[track_caller]
fn check(report: &Report, about: &str, outcome: Outcome, change: &str) {
    let finding = find(report, about);
    assert_eq!(finding.outcome, outcome, "{finding:?}");
    assert!(finding.change.as_deref().unwrap_or_default().contains(change), "{finding:?}");
}

#[tokio::test]
async fn a_provider_that_fits_has_no_failures() {
    let provider = provider();
    let report = report(&provider, &[], None).await;
    for about in ["description", "keys", "scopes", "redirect URI", "client credentials", "logout"] {
        check(&report, &format!("provider keycloak: {about}"), Outcome::Ok, "");
    }
    check(&report, "issuer keycloak: keys", Outcome::Ok, "");
    // Nobody is there.
    check(&report, "MLflow", Outcome::Failed, "upstream.url");
}

#[tokio::test]
async fn a_provider_that_calls_itself_otherwise_says_what_to_configure() {
    let provider = provider();
    let mut description = provider.description();
    description["issuer"] = json!("https://keycloak.example.com/realms/test");
    provider.answer(METADATA, Answer::Json(description));
    let report = report(&provider, &[], None).await;
    let change = "oidc.providers.keycloak.issuer = \"https://keycloak.example.com/realms/test\"";
    check(&report, "provider keycloak: description", Outcome::Failed, change);
    assert!(report.has_failed());
}

#[tokio::test]
async fn a_realm_that_is_not_there_is_told_from_a_server_that_is_not() {
    let provider = provider();
    provider.answer(METADATA, Answer::Status(404));
    check(
        &report(&provider, &[], None).await,
        "provider keycloak: description",
        Outcome::Failed,
        "OpenID Endpoint Configuration",
    );
    let away = [("oidc.providers.keycloak.discovery_url", "http://127.0.0.1:1/realms/test")];
    check(
        &report(&provider, &away, None).await,
        "provider keycloak: description",
        Outcome::Failed,
        "is http://127.0.0.1:1 answering?",
    );
}

#[test]
fn what_a_browser_is_shown_is_told_apart() {
    use provider::Shown;
    const REDIRECT: &str = "http://localhost:8080/auth/callback/keycloak";
    let shown = |status: u16, to: &str, page: &'static str| {
        let answer = http::Response::builder().status(status).header(header::LOCATION, to);
        Shown::of(&answer.body(bytes::Bytes::from_static(page.as_bytes())).unwrap(), REDIRECT)
    };
    assert_eq!(shown(200, "", "<form>"), Shown::SignIn);
    assert_eq!(shown(302, "https://other.example.com/login", ""), Shown::SignIn);
    assert_eq!(shown(400, "", "<p>Invalid parameter: redirect_uri</p>"), Shown::NoRedirect);
    assert_eq!(shown(400, "", "<p>Client not found.</p>"), Shown::NoClient);
    assert_eq!(shown(302, &format!("{REDIRECT}?error=invalid_scope&iss=x"), ""), Shown::Scope);
    let error = format!("{REDIRECT}?error=unauthorized_client&error_description=Standard+flow+is+disabled");
    let words = "Standard flow is disabled".to_owned();
    assert_eq!(shown(302, &error, ""), Shown::SentBack { error: "unauthorized_client".to_owned(), words });
    assert_eq!(shown(400, "", "<p>Client disabled.</p>"), Shown::Disabled);
    assert_eq!(shown(400, "", "<p>Realm not enabled</p>"), Shown::RealmDisabled);
    assert_eq!(shown(403, "", "no"), Shown::Refused(http::StatusCode::FORBIDDEN));
}

#[tokio::test]
async fn a_wrong_secret_is_told_from_a_wrong_code() {
    let provider = provider();
    for (status, error) in [(401, "unauthorized_client"), (401, "invalid_client")] {
        refuse_code(&provider, status, error);
        let report = report(&provider, &[], None).await;
        check(
            &report,
            "provider keycloak: client credentials",
            Outcome::Failed,
            "Clients > mlflow > Credentials > Client Secret",
        );
    }
}

#[tokio::test]
async fn unknown_scopes_and_a_refused_way_back_name_the_setting() {
    let provider = provider();
    let mut description = provider.description();
    description["scopes_supported"] = json!(["openid", "email", "profile"]);
    provider.answer(METADATA, Answer::Json(description));
    provider.answer("/realms/test/logout", Answer::Status(400));
    let more = [("oidc.providers.keycloak.scopes", "openid,groups")];
    let report = report(&provider, &more, None).await;
    check(&report, "provider keycloak: scopes", Outcome::Failed, "Create client scope `groups`");
    let setting = "Settings > Valid post logout redirect URIs: http://localhost:8080/auth/signed-out";
    check(&report, "provider keycloak: logout", Outcome::Failed, setting);
}

fn claims(provider: &FakeProvider, more: &Value) -> Value {
    let mut claims = json!({
        "iss": provider.issuer(), "aud": "mlflow", "sub": "1", "azp": "notebooks", "typ": "Bearer",
        "iat": NOW - 10, "exp": NOW + 300, "email": "ann@example.com", "email_verified": true, "groups": ["/ml/team-a"],
    });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

#[tokio::test]
async fn a_token_is_told_who_it_would_be_or_what_it_lacks() {
    const BEARER: &str = "token: as a bearer of issuer keycloak";
    let provider = provider();
    let ask = async |more: Value| {
        let token = RSA.token("RS256", &claims(&provider, &more));
        report(&provider, &[], Some(&token)).await
    };
    let right = ask(json!({})).await;
    check(&right, BEARER, Outcome::Ok, "");
    assert!(find(&right, BEARER).found.contains("ann@example.com"));
    check(&right, "token: groups for issuer keycloak", Outcome::Ok, "");

    let foreign = ask(json!({ "aud": "account" })).await;
    check(&foreign, BEARER, Outcome::Failed, "Audience, with Included Client Audience `mlflow`");
    let nowhere = ask(json!({ "groups": null, "realm_access": { "roles": ["a"] } })).await;
    check(&nowhere, BEARER, Outcome::Failed, "allowed_groups");
    let roles = ask(json!({ "groups": ["/hr"], "iss": "https://other.example.com" })).await;
    check(&roles, "token: issuer", Outcome::Failed, "[jwt.issuers.NAME]");
    let early = ask(json!({ "iat": NOW + 20, "nbf": NOW + 20 })).await;
    check(&early, "token: clock", Outcome::Warning, "NTP");
    let id_token = ask(json!({ "typ": "ID" })).await;
    check(&id_token, BEARER, Outcome::Failed, "the access token");
    let unverified = ask(json!({ "email_verified": false })).await;
    check(&unverified, BEARER, Outcome::Failed, "Email verified: On");
}

#[tokio::test]
async fn each_mistake_about_people_names_its_one_setting() {
    const SIGN_IN: &str = "token: sign-in with provider keycloak";
    let provider = provider();
    let allowed = ("oidc.providers.keycloak.allowed_groups", "/ml/**");
    let ask = async |more: Value, settings: &[(&str, &str)]| {
        let claims = serde_json::to_string(&claims(&provider, &more)).unwrap();
        report(&provider, &[&[allowed], settings].concat(), Some(&claims)).await
    };
    let of_client = |more: Value| {
        let mut all = json!({ "azp": "mlflow", "aud": "mlflow" });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    check(&ask(of_client(json!({})), &[]).await, SIGN_IN, Outcome::Ok, "");
    let leaves = ask(of_client(json!({ "groups": ["team-a"] })), &[]).await;
    check(&leaves, SIGN_IN, Outcome::Failed, "Full group path: On");
    let form = [("oidc.providers.keycloak.groups_form", "leaf")];
    check(&ask(of_client(json!({})), &form).await, SIGN_IN, Outcome::Failed, "groups_form = \"full\"");
    let other = ask(of_client(json!({ "groups": ["/other"] })), &[]).await;
    check(&other, SIGN_IN, Outcome::Failed, "Join Group");
    let unverified = ask(of_client(json!({ "email_verified": false })), &[]).await;
    check(&unverified, SIGN_IN, Outcome::Failed, "Email verified: On");
}

#[tokio::test]
async fn one_cause_is_one_failure() {
    let provider = provider();
    provider.answer(METADATA, Answer::Status(404));
    let report = report(&provider, &[], None).await;
    let failed: Vec<_> = report.findings.iter().filter(|it| it.outcome == Outcome::Failed).collect();
    let about = failed.iter().map(|finding| finding.check.as_str()).collect::<Vec<_>>();
    assert_eq!(about, ["MLflow", "provider keycloak: description"]);
    assert_eq!(failed[1].also, ["issuer keycloak: description"]);
}

#[test]
fn a_ci_preset_without_anybody_is_refused() {
    for preset in ["github-actions", "gitlab-ci"] {
        let of = |more: &[(&str, &str)]| {
            let set = [("jwt.issuers.ci.issuer", "https://ci.example.com"), ("jwt.issuers.ci.audiences", "mlflow")];
            let preset = [("jwt.issuers.ci.preset", preset)];
            let set = set.iter().chain(&preset).chain(more);
            let set = set.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            load_from(&Flags { config: None, set }, &Environment::default()).map(drop)
        };
        assert!(of(&[]).unwrap_err().to_string().starts_with("jwt.issuers.ci.preset: requires a rule"));
        of(&[("jwt.issuers.ci.allowed_groups", "github/org")]).unwrap();
        of(&[("jwt.issuers.ci.machines", r#"[{ where = { repository = "o/r" }, name = "r" }]"#)]).unwrap();
    }
}

#[tokio::test]
async fn lists_elsewhere_in_a_token_are_pointed_out() {
    let provider = provider();
    let mut claims = claims(&provider, &json!({ "realm_access": { "roles": ["a"] } }));
    claims.as_object_mut().unwrap().remove("groups");
    let report = report(&provider, &[], Some(&RSA.token("RS256", &claims))).await;
    const BEARER: &str = "token: as a bearer of issuer keycloak";
    // Roles come from other mappers than groups.
    check(&report, BEARER, Outcome::Failed, "Group Membership");
    assert!(find(&report, BEARER).found.contains("`realm_access.roles`"));
    assert!(!report.findings.iter().any(|finding| finding.check == "token: groups for issuer keycloak"));
}

#[tokio::test]
async fn a_client_that_keycloak_asks_for_no_secret_is_reported() {
    let provider = provider();
    let answer = |request: &crate::oidc::fake::Request| {
        let error = if request.body.contains("grant_type=client_credentials") {
            json!({ "error": "unauthorized_client", "error_description": "Public client not allowed to retrieve service account" })
        } else {
            json!({ "error": "invalid_grant" })
        };
        (400, error)
    };
    provider.answer("/realms/test/token", Answer::With(Arc::new(answer)));
    let report = report(&provider, &[], None).await;
    check(&report, "provider keycloak: client credentials", Outcome::Warning, "Client authentication: On");
    // Its lack of a service account has the same cause.
    assert!(!report.findings.iter().any(|finding| finding.check == "provider keycloak: list of users"));
}

#[tokio::test]
async fn a_program_that_a_rule_names_needs_no_groups_in_its_token() {
    let provider = provider();
    let rule = r#"[{ where = { azp = "ci" }, name = "pipeline-ci", groups = ["/ml/team-a"] }]"#;
    let mut claims = claims(&provider, &json!({ "azp": "ci" }));
    claims.as_object_mut().unwrap().remove("groups");
    let more = [("jwt.issuers.keycloak.machines", rule)];
    let report = report(&provider, &more, Some(&RSA.token("RS256", &claims))).await;
    assert!(find(&report, "token: as a bearer of issuer keycloak").found.contains("pipeline-ci, in /ml/team-a"));
    let warned = report.findings.iter().filter(|it| it.check.starts_with("token") && it.outcome != Outcome::Ok);
    assert_eq!(warned.count(), 0, "{:#?}", report.findings);
}

#[tokio::test]
async fn the_claims_that_keycloaks_console_shows_will_do() {
    const BEARER: &str = "token: as a bearer of issuer keycloak";
    let provider = provider();
    let ask = async |more: Value| {
        let claims = serde_json::to_string_pretty(&claims(&provider, &more)).unwrap();
        report(&provider, &[("jwt.issuers.keycloak.authorized_parties", "notebooks,mlflow")], Some(&claims)).await
    };
    let right = ask(json!({ "aud": ["account", "mlflow"], "azp": "mlflow" })).await;
    check(&right, BEARER, Outcome::Ok, "");
    assert!(find(&right, BEARER).found.contains("ann@example.com, in /ml/team-a; only its claims"));
    check(&right, "token: groups for provider keycloak", Outcome::Ok, "");
    let nowhere = ask(json!({ "aud": "account", "azp": "mlflow", "groups": null })).await;
    check(&nowhere, BEARER, Outcome::Failed, "Audience, with Included Client Audience `mlflow`");
    let other = ask(json!({ "azp": "other" })).await;
    check(&other, BEARER, Outcome::Failed, "authorized_parties");
    check(&report(&provider, &[], Some("{ no token")).await, "token", Outcome::Failed, "--token-file");
}

#[tokio::test]
async fn nothing_of_a_token_or_secret_is_shown() {
    let provider = provider();
    let token = OTHER_RSA.token("RS256", &claims(&provider, &json!({ "secret-claim": "secret-value" })));
    let report = report(&provider, &[], Some(&token)).await;
    let shown = serde_json::to_string(&report).unwrap();
    for secret in [token.as_str(), "secret-value", SECRET] {
        assert!(!shown.contains(secret), "{shown}");
    }
    check(&report, "token: as a bearer of issuer keycloak", Outcome::Failed, "from that realm");
}

#[tokio::test]
async fn files_that_are_wrong_are_named() {
    let provider = provider();
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, "[[grants]]\nto = 3\n").unwrap();
    let nowhere = format!("sqlite://{}/no/store.db", folder.path().display());
    let more = [("authz.policy_file", policy.to_str().unwrap()), ("store.url", nowhere.as_str())];
    let report = report(&provider, &more, None).await;
    check(&report, "authz.policy_file", Outcome::Failed, "the file, or authz.policy_file");
    check(&report, "store", Outcome::Failed, "store.url");
}
