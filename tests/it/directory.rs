//! A provider's list of people: who is let go by it, and when it changes nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlflow_auth_proxy::config;
use serde_json::{Value, json};

use crate::browser::{Browser, TOKEN, World, eventually, granted};
use crate::provider::{Answer, Request};

const REALM: &str = "/admin/realms/test";

/// What the list says of somebody.
#[derive(Clone)]
enum Said {
    Is(u16, Value),
    /// Enabled, in these groups.
    In(&'static [&'static str]),
    /// As [`Said::In`], with an address that nobody verified.
    Unverified(&'static [&'static str]),
}

fn unknown() -> Said {
    Said::Is(
        404,
        json!({ "error": "User not found", "error_description": "For more on this error consult the server log." }),
    )
}

/// A world whose proxy asks every second, and people of whom the list says something.
struct Listed {
    world: World,
    said: Arc<Mutex<Vec<(String, Said)>>>,
}

impl Listed {
    fn start() -> Self {
        let world = World::with(|config| {
            let provider = config.providers.first_mut().unwrap();
            let issuer = provider.endpoint.issuer.replace("/realms/", "/admin/realms/");
            provider.sync = Some(config::Sync {
                every: Duration::from_millis(200),
                realm: issuer.parse().unwrap(),
                by_default: false,
            });
        });
        let listed = Self { world, said: Arc::default() };
        listed.client(&known());
        listed.scopes(&json!([]));
        for kind in ["id", "access"] {
            let said = Arc::clone(&listed.said);
            let path = format!("{REALM}/clients/uuid-1/evaluate-scopes/generate-example-{kind}-token");
            listed.answers(&path, move |request| example(&said.lock().unwrap(), request));
        }
        listed
    }

    fn answers(&self, path: &str, answer: impl Fn(&Request) -> (u16, Value) + Send + Sync + 'static) {
        self.world.provider.answer(path, Answer::With(Arc::new(answer)));
    }

    /// What is known of our client.
    fn client(&self, clients: &Value) {
        self.world.provider.answer(&format!("{REALM}/clients"), Answer::Json(clients.clone()));
    }

    /// The realm's scopes.
    fn scopes(&self, scopes: &Value) {
        self.world.provider.answer(&format!("{REALM}/client-scopes"), Answer::Json(scopes.clone()));
    }

    /// Somebody who signed in, enabled and in a group.
    fn person(&self, subject: &str) -> Browser<'_> {
        self.say(subject, Said::In(&["/ml/team-a"]));
        let mut browser = self.world.browser();
        let begun = browser.begin("/");
        let mut claims = self.world.claims(&begun.nonce);
        claims["sub"] = json!(subject);
        claims["email"] = json!(format!("{subject}@example.com"));
        let tokens = granted(&claims, "refresh-1", 300);
        self.answers(TOKEN, move |request| {
            (200, if request.body.contains("client_credentials") { own() } else { tokens.clone() })
        });
        let answer = browser.callback(&self.world.right(&begun.state));
        assert_eq!(answer.status, 303, "{}", answer.text());
        browser
    }

    fn say(&self, subject: &str, said: Said) {
        let user = match &said {
            Said::Is(status, json) => (*status, json.clone()),
            Said::In(_) | Said::Unverified(_) => (200, json!({ "id": subject, "enabled": true })),
        };
        {
            let mut all = self.said.lock().unwrap();
            all.retain(|(known, _)| known != subject);
            all.push((subject.to_owned(), said));
        }
        self.answers(&format!("{REALM}/users/{subject}"), move |_| user.clone());
    }

    /// Says the same of several, and no round sees a part of it.
    fn say_at_once(&self, subjects: &[&str], said: &Said) {
        // Without our client a round ends before anybody is asked about.
        self.client(&json!([]));
        self.two_rounds();
        for subject in subjects {
            self.say(subject, said.clone());
        }
        self.client(&known());
    }

    /// Until everybody was asked about twice since now.
    fn two_rounds(&self) {
        let client = format!("{REALM}/clients");
        let before = self.world.provider.requests(&client).len();
        eventually("two rounds", || self.world.provider.requests(&client).len() >= before + 3);
    }
}

/// Our client, as the list knows it.
fn known() -> Value {
    json!([{ "clientId": "mlflow", "id": "uuid-1", "defaultClientScopes": ["basic"] }])
}

/// The service account's token.
fn own() -> Value {
    json!({ "token_type": "Bearer", "access_token": "of-the-service-account", "expires_in": 60 })
}

/// The claims of a token that would be made for the person who is asked about.
fn example(said: &[(String, Said)], request: &Request) -> (u16, Value) {
    assert!(request.head.contains("scope=openid+email+profile"), "{}", request.head);
    assert!(request.head.contains("Bearer of-the-service-account"), "{}", request.head);
    let about = |(subject, _): &&(String, Said)| request.head.contains(&format!("userId={subject}&"));
    let (subject, groups, verified) = match said.iter().find(about) {
        Some((subject, Said::In(groups))) => (subject, groups, true),
        Some((subject, Said::Unverified(groups))) => (subject, groups, false),
        Some((_, Said::Is(..))) | None => return (404, json!({})),
    };
    let email = format!("{subject}@example.com");
    (200, json!({ "sub": subject, "email": email, "email_verified": verified, "groups": groups }))
}

#[test]
fn who_is_disabled_or_deleted_or_out_of_all_groups_is_out_and_nobody_else() {
    let listed = Listed::start();
    let mut people: Vec<_> = ["stays", "disabled", "deleted", "left"].map(|subject| listed.person(subject)).into();
    listed.two_rounds();
    assert!(people.iter_mut().all(Browser::is_signed_in));
    listed.say("disabled", Said::Is(200, json!({ "id": "disabled", "enabled": false })));
    listed.say("deleted", unknown());
    listed.say("left", Said::In(&["/other"]));
    for gone in &mut people[1..] {
        eventually("they are out", || !gone.is_signed_in());
    }
    listed.two_rounds();
    assert!(people[0].is_signed_in());
}

#[test]
fn a_list_that_cannot_be_read_changes_nothing() {
    let listed = Listed::start();
    let mut person = listed.person("one");
    let mut other = listed.person("two");
    let odd: [(u16, Value); 8] = [
        (403, json!({ "error": "HTTP 403 Forbidden" })),
        (404, json!({})),
        (404, json!({ "error": "no backend" })),
        (500, json!({})),
        (200, json!([])),
        (200, json!({ "id": "somebody else", "enabled": false })),
        (200, json!({ "id": "one" })),
        (200, json!({ "id": "one", "enabled": "false" })),
    ];
    for (status, json) in odd {
        listed.say("one", Said::Is(status, json.clone()));
        listed.two_rounds();
        assert!(person.is_signed_in() && other.is_signed_in(), "{status} {json}");
    }
    listed.say("one", Said::In(&["/ml/team-a"]));
    for clients in [json!([]), json!({}), json!([{ "clientId": "other", "id": "uuid-1" }])] {
        listed.client(&clients);
        listed.two_rounds();
        listed.say("two", Said::Is(200, json!({ "id": "two", "enabled": false })));
        listed.two_rounds();
        assert!(person.is_signed_in() && other.is_signed_in(), "{clients}");
    }
}

#[test]
fn a_list_that_knows_nobody_signs_nobody_out() {
    let listed = Listed::start();
    let mut people = [listed.person("one"), listed.person("two")];
    listed.say_at_once(&["one", "two"], &unknown());
    listed.two_rounds();
    assert!(people.iter_mut().all(Browser::is_signed_in), "a realm that was made anew");
    listed.say("two", Said::In(&["/ml/team-a"]));
    eventually("the one who is really gone is out", || !people[0].is_signed_in());
    assert!(people[1].is_signed_in());
}

#[test]
fn the_only_person_is_not_signed_out_for_being_unknown() {
    let listed = Listed::start();
    let mut person = listed.person("one");
    listed.say("one", unknown());
    listed.two_rounds();
    assert!(person.is_signed_in());
    listed.say("one", Said::Is(200, json!({ "id": "one", "enabled": false })));
    eventually("who is disabled is out, alone or not", || !person.is_signed_in());
}

#[test]
fn one_odd_answer_holds_up_nobody_elses() {
    let listed = Listed::start();
    let mut people = [listed.person("one"), listed.person("two"), listed.person("three")];
    listed.say("one", Said::Is(200, json!({ "id": "one" })));
    listed.say("two", unknown());
    listed.say("three", Said::Is(200, json!({ "id": "three", "enabled": false })));
    eventually("the others are out", || !people[1].is_signed_in() && !people[2].is_signed_in());
    assert!(people[0].is_signed_in());
}

#[test]
fn a_name_that_is_refused_hides_no_groups() {
    let listed = Listed::start();
    let mut person = listed.person("one");
    listed.say("one", Said::Unverified(&["/ml/team-a", "/ml/team-b"]));
    eventually("the groups follow", || {
        let me = person.send("GET", "/auth/api/v1/me", "Sec-Fetch-Mode: cors\r\n", "");
        me.text().contains("/ml/team-b") && me.text().contains("one@example.com")
    });
    listed.say("one", Said::Unverified(&["/other"]));
    eventually("out of all groups is out", || !person.is_signed_in());
}

#[test]
fn an_account_that_was_deleted_here_does_not_come_back() {
    let listed = Listed::start();
    let _people = [listed.person("one"), listed.person("two")];
    let store = listed.world.proxy.store();
    let actor = mlflow_auth_proxy::store::Actor { name: "admin".to_owned(), token: None, address: None };
    listed.world.proxy.block_on(async {
        let user = store.user_by_name("one@example.com").await.unwrap().unwrap();
        store.delete_user(&actor, user.id).await.unwrap();
    });
    listed.two_rounds();
    let names = listed.world.proxy.block_on(async { store.users().await.unwrap() });
    assert!(names.iter().all(|user| user.name != "one@example.com"));
}

#[test]
fn a_service_account_that_sees_no_clients_still_tells_who_was_disabled() {
    let listed = Listed::start();
    let mut people = [listed.person("one"), listed.person("two")];
    listed.world.provider.answer(&format!("{REALM}/clients"), Answer::Status(403));
    listed.two_rounds();
    listed.say("one", Said::In(&["/other"]));
    listed.say("two", Said::Is(200, json!({ "id": "two", "enabled": false })));
    eventually("the disabled is out", || !people[1].is_signed_in());
    listed.two_rounds();
    assert!(people[0].is_signed_in(), "groups it does not tell");
}

#[test]
fn a_client_whose_tokens_say_what_the_list_does_not_know_is_not_asked_about() {
    let listed = Listed::start();
    let mut people = [listed.person("one"), listed.person("two")];
    let mapper =
        |kind: &str, claim: &str| json!([{ "name": "m", "protocolMapper": kind, "config": { "claim.name": claim } }]);
    let client = |mappers: Value| json!([{ "clientId": "mlflow", "id": "uuid-1", "defaultClientScopes": ["basic"], "protocolMappers": mappers }]);
    for mappers in [
        mapper("oidc-sha256-pairwise-sub-mapper", ""),
        mapper("oidc-usermodel-attribute-mapper", "sub"),
        mapper("oidc-usersessionmodel-note-mapper", "groups"),
    ] {
        for (own, of_scope, of_other) in
            [(mappers.clone(), json!([]), json!([])), (json!([]), mappers.clone(), json!([]))]
        {
            listed.client(&client(own));
            listed.scopes(&json!([{ "name": "basic", "protocolMappers": of_scope }, { "name": "x", "protocolMappers": of_other }]));
            listed.two_rounds();
            listed.say("one", unknown());
            listed.say("two", Said::In(&["/other"]));
            listed.two_rounds();
            assert!(people.iter_mut().all(Browser::is_signed_in), "{mappers}");
            listed.say("one", Said::In(&["/ml/team-a"]));
            listed.say("two", Said::In(&["/ml/team-a"]));
        }
    }
    // What another client's scope or a note of no interest has disturbs nobody.
    listed.client(&client(mapper("oidc-usersessionmodel-note-mapper", "client_id")));
    listed.scopes(&json!([{ "name": "x", "protocolMappers": mapper("oidc-sha256-pairwise-sub-mapper", "") }]));
    listed.say("one", unknown());
    eventually("the list counts again", || !people[0].is_signed_in());
}

#[test]
fn a_refused_refresh_of_a_deleted_user_stops_their_tokens_at_once() {
    let listed = Listed::start();
    let mut person = listed.person("one");
    let headers = format!("Content-Type: application/json\r\nOrigin: {}\r\n", crate::browser::PUBLIC);
    let made = person.send("POST", "/auth/api/v1/tokens", &headers, r#"{"name":"ci","expires_in_days":1}"#);
    let made: Value = serde_json::from_slice(&made.body).unwrap();
    let bearer = format!("Authorization: Bearer {}\r\n", made["token"].as_str().unwrap());
    let works = || listed.world.browser().send("GET", "/auth/api/v1/me", &bearer, "").status == 200;
    assert!(works());
    // Alone, so that the rounds do not believe it.
    listed.say("one", unknown());
    listed.two_rounds();
    assert!(works());
    listed.answers(TOKEN, |request| {
        if request.body.contains("client_credentials") {
            (200, own())
        } else {
            (400, json!({ "error": "invalid_grant", "error_description": "Session not active" }))
        }
    });
    let store = listed.world.proxy.store();
    let session = listed.world.sessions_of("one@example.com").remove(0);
    listed.world.proxy.block_on(async {
        let due = mlflow_auth_proxy::clock::Timestamp(0);
        let lease = mlflow_auth_proxy::store::Lease { until: due, session: session.clone() };
        store.refreshed(&lease, &session.tokens, Some(due), 0).await.unwrap();
    });
    eventually("the token stops", || !works());
    assert!(!person.is_signed_in());
}
