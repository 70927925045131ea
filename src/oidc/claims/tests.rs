//! What claims of real providers, of careless ones and of attackers make of somebody.
#![expect(clippy::needless_pass_by_value, reason = "tables of `json!` read better")]

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::{Endpoint, Machine, Preset};

fn rules() -> Claims {
    let source = |claim: &str| GroupSource { claim: claim.to_owned(), prefix: String::new() };
    Claims {
        groups: vec![source("groups"), source("realm_access.roles")],
        form: GroupForm::Full,
        allowed: Vec::new(),
        admin: vec!["/platform/admins".to_owned()],
        username: "email".to_owned(),
        verified_email: true,
        machine_names: Vec::new(),
    }
}

fn issuer(preset: Preset, machines: Vec<Machine>) -> Issuer {
    let url = "https://issuer.example.com";
    Issuer {
        name: "x".to_owned(),
        endpoint: Endpoint {
            issuer: url.to_owned(),
            discovery_url: url.parse().unwrap(),
            internal_url: None,
            jwks_url: None,
            ca: Vec::new(),
            bearer_file: None,
            algorithms: Vec::new(),
        },
        audiences: vec!["mlflow".to_owned()],
        authorized_parties: Vec::new(),
        leeway: Duration::ZERO,
        claims: rules(),
        preset,
        machines,
    }
}

fn machine(claim: &str, pattern: &str, name: &str, groups: &[&str]) -> Machine {
    Machine {
        conditions: vec![(claim.to_owned(), pattern.to_owned())],
        name: name.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
    }
}

fn ann() -> Value {
    json!({
        "sub": "f3a1", "email": "Ann@Example.com ", "email_verified": true, "sid": "s-1", "groups": ["/ml/team-a"],
        "realm_access": { "roles": ["offline_access", "data-scientist"] },
    })
}

#[test]
fn a_person_has_a_name_in_lower_case_and_the_groups_of_all_sources() {
    let person = read(&rules(), &ann()).unwrap();
    assert_eq!((person.subject.as_str(), person.name.as_str()), ("f3a1", "ann@example.com"));
    assert_eq!(person.groups, ["/ml/team-a", "offline_access", "data-scientist"]);
    assert_eq!(person.sid.as_deref(), Some("s-1"));
    assert!(person.allowed && !person.admin && person.says_groups && !person.machine);
}

#[track_caller]
fn groups(change: impl FnOnce(&mut Claims), claims: &Value) -> Vec<String> {
    let mut rules = rules();
    change(&mut rules);
    standing(&rules, &[claims]).unwrap().groups
}

#[test]
fn groups_have_the_configured_form_and_prefix() {
    let claims = json!({ "groups": ["/ml/team-a", "/ml/team-a", "ops"], "realm_access": { "roles": ["ops"] } });
    assert_eq!(groups(|_| {}, &claims), ["/ml/team-a", "ops"]);
    assert_eq!(groups(|rules| rules.form = GroupForm::Leaf, &claims), ["team-a", "ops"]);
    assert_eq!(groups(|rules| rules.form = GroupForm::Both, &claims), ["/ml/team-a", "team-a", "ops"]);
    assert_eq!(groups(|rules| rules.groups[1].prefix = "role:".to_owned(), &claims), ["/ml/team-a", "ops", "role:ops"]);
}

#[test]
fn a_groups_claim_is_a_text_or_a_list_of_texts_and_anything_else_says_nothing() {
    for (value, expected) in [
        (json!("/ml"), vec!["/ml"]),
        (json!("a b"), vec!["a b"]),
        (json!([]), vec![]),
        (json!(null), vec![]),
        (json!({ "/ml": true }), vec![]),
        (json!(5), vec![]),
        (json!(["/ml", 5, null, ["/x"], { "y": 1 }]), vec!["/ml"]),
        (json!(["", "  ", "a\u{0}b", "a\nb", "x".repeat(501)]), vec![]),
    ] {
        assert_eq!(groups(|_| {}, &json!({ "groups": value })), expected, "{value}");
    }
    let without = standing(&rules(), &[&json!({})]).unwrap();
    assert!(!without.says_groups && without.groups.is_empty());
    assert!(standing(&rules(), &[&json!({ "groups": [] })]).unwrap().says_groups);
    let many: Vec<String> = (0..1001).map(|number| number.to_string()).collect();
    assert_eq!(standing(&rules(), &[&json!({ "groups": many })]), Err(ClaimError::TooManyGroups));
}

#[test]
fn a_path_finds_members_whose_own_names_have_dots() {
    let claims = json!({
        "https://example.com/groups": ["a"], "resource_access": { "my.client": { "roles": ["b"] } }, "a.b": { "c": 1 },
        "a": { "b": { "c": 2, "d": 3 } },
    });
    assert_eq!(at(&claims, "https://example.com/groups"), Some(&json!(["a"])));
    assert_eq!(at(&claims, "resource_access.my.client.roles"), Some(&json!(["b"])));
    assert_eq!(at(&claims, "a.b.c"), Some(&json!(1)));
    assert_eq!(at(&claims, "a.b.d"), Some(&json!(3)));
    for path in ["", ".", "a.", ".a", "a..b", "resource_access.my", "x.y.z"] {
        assert_eq!(at(&claims, path), None, "{path}");
    }
}

#[test]
fn a_pattern_means_a_group_a_segment_or_a_subtree() {
    for (pattern, group, expected) in [
        ("/ml", "/ml", true),
        ("/ml", "/ML", false),
        ("/ml", "/ml/", false),
        ("/ml/**", "/ml", true),
        ("/ml/**", "/ml/team-a", true),
        ("/ml/**", "/ml/team-a/x", true),
        ("/ml/**", "/mlx", false),
        ("/ml/**", "/mlx/y", false),
        ("/ml/**", "/x/ml", false),
        ("/ml/*", "/ml/team-a", true),
        ("/ml/*", "/ml", false),
        ("/ml/*", "/ml/team-a/x", false),
        ("/*/admins", "/ml/admins", true),
        ("/*/admins", "/ml/x/admins", false),
        ("/*/admins/**", "/ml/admins/x", true),
        ("team-?", "team-a", true),
        ("team-?", "team-ab", false),
        ("team-*", "team-a/b", false),
        ("*", "/ml/x", true),
        ("**", "/ml/x", true),
        ("/**", "/ml/x", true),
        ("/**", "ml", false),
        ("", "ml", false),
        ("ml", "", false),
    ] {
        assert_eq!(matches(pattern, group), expected, "{pattern} {group}");
    }
}

#[test]
fn who_is_in_no_allowed_group_may_not_come_in() {
    let mut rules = rules();
    rules.allowed = vec!["/ml/**".to_owned()];
    let allowed = |groups: Value| standing(&rules, &[&json!({ "groups": groups })]).unwrap().allowed;
    assert!(allowed(json!(["/x", "/ml/team-a"])));
    assert!(!allowed(json!(["/mlx"])));
    assert!(!allowed(json!([])));
    assert!(!standing(&rules, &[&json!({})]).unwrap().allowed);
    assert!(
        read(&rules, &json!({ "sub": "1", "email": "a@b", "email_verified": true, "groups": ["/platform/admins"] }))
            .unwrap()
            .admin
    );
}

#[track_caller]
fn name_of(changes: Value) -> Result<String, ClaimError> {
    let mut claims = ann();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    read(&rules(), &claims).map(|person| person.name)
}

#[test]
fn an_email_address_that_is_not_verified_is_nobodys_name() {
    for value in [json!(false), json!("true"), json!(null), json!(1), json!("false")] {
        assert_eq!(name_of(json!({ "email_verified": value })), Err(ClaimError::Unverified), "{value}");
    }
    let mut claims = ann();
    claims.as_object_mut().unwrap().remove("email_verified");
    assert_eq!(read(&rules(), &claims), Err(ClaimError::Unverified));
    // What another document says of another address does not count.
    let other = json!({ "sub": "f3a1", "email": "x@y", "email_verified": true });
    assert_eq!(read_all(&rules(), &[&claims, &other]), Err(ClaimError::Unverified));
    let mut lax = rules();
    lax.verified_email = false;
    assert_eq!(read(&lax, &claims).unwrap().name, "ann@example.com");
}

#[test]
fn a_name_that_hides_or_imitates_is_refused() {
    for email in [
        "",
        "ann",
        "@",
        "ann@",
        "@example.com",
        "ann@x@example.com",
        "ann smith@example.com",
        "ann@exam ple.com",
        "ann\u{0}@example.com",
        "ann@example.com\r\nx",
        "ann\u{202e}@example.com",
        "ann\u{200b}@example.com",
        "ann\u{ad}@example.com",
        "ann\u{a0}@example.com",
        "an\u{2800}n@example.com",
        "ann\u{feff}@example.com",
        "a:b@example.com",
        "\u{212a}im@example.com",
        "\u{130}rem@example.com",
        "ann\u{e0041}@example.com",
    ] {
        let refusal = name_of(json!({ "email": email })).unwrap_err();
        assert!(matches!(refusal, ClaimError::BadName { .. }), "{email:?}: {refusal}");
    }
    assert!(name_of(json!({ "email": format!("{}@example.com", "a".repeat(250)) })).is_err());
    for value in [json!(null), json!(5), json!(["ann@example.com"]), json!({ "a": 1 })] {
        assert_eq!(name_of(json!({ "email": value })), Err(ClaimError::NoName("email".to_owned())), "{value}");
    }
    assert_eq!(name_of(json!({ "email": "MÜLLER@example.com" })).unwrap(), "müller@example.com");
}

#[test]
fn a_subject_is_a_short_plain_text_and_the_same_in_all_documents() {
    for subject in [json!(null), json!(""), json!(5), json!("x".repeat(256)), json!("a\u{0}"), json!("machine:ci")] {
        let mut claims = ann();
        claims["sub"] = subject.clone();
        assert_eq!(read(&rules(), &claims), Err(ClaimError::Subject), "{subject}");
    }
    assert_eq!(read_all(&rules(), &[&ann(), &json!({ "sub": "other" })]), Err(ClaimError::Subject));
    assert_eq!(read_all(&rules(), &[]), Err(ClaimError::Subject));
}

#[test]
fn groups_that_only_the_access_token_has_are_found_there() {
    let id = json!({ "sub": "f3a1", "email": "ann@example.com", "email_verified": true, "groups": ["/new"] });
    let access = json!({ "sub": "f3a1", "groups": ["/old"], "realm_access": { "roles": ["r"] } });
    assert_eq!(read_all(&rules(), &[&id, &access]).unwrap().groups, ["/new", "r"]);
}

#[test]
fn a_service_account_without_a_rule_is_told_which_rule_it_needs() {
    let claims = json!({
        "sub": "9", "azp": "ci", "client_id": "ci", "preferred_username": "service-account-ci", "email_verified": false,
    });
    let refusal = read_bearer(&issuer(Preset::Standard, Vec::new()), &claims).unwrap_err();
    assert_eq!(refusal, ClaimError::ServiceAccount("ci".to_owned()));
    assert!(refusal.to_string().contains("where = { client_id = \"ci\" }"), "{refusal}");
    let ruled = issuer(Preset::Standard, vec![machine("azp", "c*", "bot-{azp}", &["/ml/ci"])]);
    let bot = read_bearer(&ruled, &claims).unwrap();
    assert_eq!((bot.name.as_str(), bot.subject.as_str()), ("bot-ci", "machine:bot-ci"));
    assert_eq!(bot.groups, ["/ml/ci"]);
    assert!(bot.machine && bot.says_groups);
}

#[test]
fn the_first_rule_that_matches_names_a_program_and_a_person_stays_a_person() {
    let rules = vec![
        Machine {
            conditions: vec![("azp".to_owned(), "ci".to_owned()), ("env.name".to_owned(), "prod".to_owned())],
            name: "ci-prod".to_owned(),
            groups: Vec::new(),
        },
        machine("azp", "ci", "ci-other", &[]),
        machine("aud", "robots", "robot", &[]),
    ];
    let issuer = issuer(Preset::Standard, rules);
    let name = |claims: Value| read_bearer(&issuer, &claims).unwrap().name;
    assert_eq!(name(json!({ "sub": "1", "azp": "ci", "env": { "name": "prod" } })), "ci-prod");
    assert_eq!(name(json!({ "sub": "1", "azp": "ci", "env": { "name": "test" } })), "ci-other");
    assert_eq!(name(json!({ "sub": "1", "azp": "x", "aud": ["mlflow", "robots"] })), "robot");
    assert_eq!(name(ann()), "ann@example.com");
}

#[test]
fn a_machines_name_can_only_be_made_of_plain_texts() {
    let issuer = issuer(Preset::Standard, vec![machine("azp", "*", "bot-{who}", &[])]);
    for who in [json!(null), json!(5), json!(["x"]), json!(""), json!("a:b"), json!("a\u{202e}"), json!("a\u{0}")] {
        let refusal = read_bearer(&issuer, &json!({ "sub": "1", "azp": "x", "who": who.clone() })).unwrap_err();
        assert!(matches!(refusal, ClaimError::Template(_)), "{who}");
    }
}

#[test]
fn kubernetes_service_accounts_are_named_by_namespace_and_name() {
    let issuer = issuer(Preset::Kubernetes, Vec::new());
    let pod = read_bearer(&issuer, &json!({ "sub": "system:serviceaccount:ml:trainer" })).unwrap();
    assert_eq!(pod.name, "k8s/ml/trainer");
    assert_eq!(pod.groups, ["system:serviceaccounts:ml"]);
    for sub in [
        "system:serviceaccount:ml",
        "system:serviceaccount::x",
        "system:serviceaccount:ml:",
        "system:serviceaccount:ml:a:b",
        "system:serviceaccount:ml/x:y",
        "system:serviceaccount:ML:y",
        "system:node:x",
        "ann@example.com",
    ] {
        assert_eq!(read_bearer(&issuer, &json!({ "sub": sub })), Err(ClaimError::NoMachine("sub")), "{sub}");
    }
}

#[test]
fn ci_jobs_are_named_by_their_repository_whichever_branch_they_run_on() {
    let github = issuer(Preset::GithubActions, vec![machine("environment", "prod", "deployer", &[])]);
    let job = |branch: &str| json!({ "sub": format!("repo:Org/app:ref:{branch}"), "repository": "Org/app", "repository_owner": "Org" });
    let (main, other) = (read_bearer(&github, &job("main")).unwrap(), read_bearer(&github, &job("x")).unwrap());
    assert_eq!((main.name.as_str(), main.groups.as_slice()), ("github/org/app", &["github/org".to_owned()][..]));
    assert_eq!(main, other, "one identity");
    let mut prod = job("main");
    prod["environment"] = json!("prod");
    assert_eq!(read_bearer(&github, &prod).unwrap().name, "deployer");
    let gitlab = issuer(Preset::GitlabCi, Vec::new());
    let job = json!({ "sub": "project_path:g/p:ref_type:branch", "project_path": "g/p", "namespace_path": "g" });
    assert_eq!(read_bearer(&gitlab, &job).unwrap().name, "gitlab/g/p");
    assert!(read_bearer(&gitlab, &json!({ "sub": "x" })).is_err());
}

#[test]
fn an_issuer_that_serves_the_whole_world_lets_nobody_in_without_a_rule() {
    let mut github = issuer(Preset::GithubActions, vec![machine("repository", "org/app", "app", &[])]);
    github.endpoint.issuer = "https://token.actions.githubusercontent.com".to_owned();
    let job =
        |repository: &str, owner: &str| json!({ "sub": "x", "repository": repository, "repository_owner": owner });
    assert_eq!(read_bearer(&github, &job("org/app", "org")).unwrap().name, "app");
    let refusal = read_bearer(&github, &job("evil/app", "evil")).unwrap_err();
    assert!(matches!(refusal, ClaimError::OpenIssuer(_)));
    github.claims.allowed = vec!["github/org".to_owned()];
    assert!(read_bearer(&github, &job("org/other", "org")).unwrap().allowed);
    assert!(!read_bearer(&github, &job("evil/app", "evil")).unwrap().allowed);
}

proptest! {
    #[test]
    fn no_text_panics_and_every_name_is_a_user_name(email in ".{0,40}", pattern in "[/a*?]{0,12}", group in "[/ab]{0,12}", path in "[a.]{0,8}") {
        if let Ok(name) = name_of(json!({ "email": email })) {
            prop_assert!(check_username(&name).is_ok() && name.matches('@').count() == 1);
        }
        let _ = (matches(&pattern, &group), at(&json!({ "a": { "a.a": { "": 1 } } }), &path));
    }
}
