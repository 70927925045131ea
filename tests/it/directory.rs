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
            provider.sync = Some(config::Sync { every: Duration::from_millis(200), realm: issuer.parse().unwrap() });
        });
        let listed = Self { world, said: Arc::default() };
        listed.client(&json!([{ "clientId": "mlflow", "id": "uuid-1" }]));
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
            Said::In(_) => (200, json!({ "id": subject, "enabled": true })),
        };
        {
            let mut all = self.said.lock().unwrap();
            all.retain(|(known, _)| known != subject);
            all.push((subject.to_owned(), said));
        }
        self.answers(&format!("{REALM}/users/{subject}"), move |_| user.clone());
    }

    /// Until everybody was asked about twice since now.
    fn two_rounds(&self) {
        let client = format!("{REALM}/clients");
        let before = self.world.provider.requests(&client).len();
        eventually("two rounds", || self.world.provider.requests(&client).len() >= before + 3);
    }
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
    match said.iter().find(about) {
        Some((subject, Said::In(groups))) => (
            200,
            json!({ "sub": subject, "email": format!("{subject}@example.com"), "email_verified": true, "groups": groups }),
        ),
        Some((_, Said::Is(..))) | None => (404, json!({})),
    }
}

#[test]
fn who_is_disabled_or_deleted_or_out_of_all_groups_is_out_and_nobody_else() {
    let listed = Listed::start();
    let mut people: Vec<_> = ["stays", "disabled", "deleted", "left"].map(|subject| listed.person(subject)).into();
    listed.two_rounds();
    assert!(people.iter_mut().all(Browser::is_signed_in));
    listed.say("disabled", Said::Is(200, json!({ "id": "disabled", "enabled": false })));
    listed.say("deleted", Said::Is(404, json!({ "error": "User not found" })));
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
    let odd: [(u16, Value); 6] = [
        (403, json!({ "error": "HTTP 403 Forbidden" })),
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
        listed.say("two", Said::Is(200, json!({ "id": "two", "enabled": false })));
        listed.two_rounds();
        assert!(person.is_signed_in() && other.is_signed_in(), "{clients}");
    }
}

#[test]
fn a_list_that_knows_nobody_signs_nobody_out() {
    let listed = Listed::start();
    let mut people = [listed.person("one"), listed.person("two")];
    for subject in ["one", "two"] {
        listed.say(subject, Said::Is(404, json!({})));
    }
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
    listed.say("one", Said::Is(404, json!({})));
    listed.two_rounds();
    assert!(person.is_signed_in());
    listed.say("one", Said::Is(200, json!({ "id": "one", "enabled": false })));
    eventually("who is disabled is out, alone or not", || !person.is_signed_in());
}

#[test]
fn a_client_that_gives_people_another_subject_is_not_asked_about() {
    let listed = Listed::start();
    let mut people = [listed.person("one"), listed.person("two")];
    let pairwise = json!({ "name": "pairwise", "protocolMapper": "oidc-sha256-pairwise-sub-mapper", "config": {} });
    let attribute =
        json!({ "name": "id", "protocolMapper": "oidc-usermodel-attribute-mapper", "config": { "claim.name": "sub" } });
    for mapper in [pairwise, attribute] {
        listed.client(&json!([{ "clientId": "mlflow", "id": "uuid-1", "protocolMappers": [mapper] }]));
        listed.say("one", Said::Is(404, json!({})));
        listed.two_rounds();
        assert!(people.iter_mut().all(Browser::is_signed_in));
    }
}
