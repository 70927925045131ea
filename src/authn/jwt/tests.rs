//! What the owner of a token, an administrator and an attacker see. Providers are fakes that really listen.

use std::net::{IpAddr, Ipv4Addr};

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::*;
use crate::authn::RawCredentials;
use crate::authz::Identity;
use crate::clock::Clock;
use crate::config::{Claims, Endpoint, GroupForm, GroupSource, Machine, Preset};
use crate::oidc::Timing;
use crate::oidc::fake::{CERTS, FakeProvider, METADATA, OTHER_RSA, RSA};
use crate::store::Store;

const START: Timestamp = Timestamp(1_700_000_000_000);
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct World {
    provider: FakeProvider,
    authn: Arc<Authn>,
    store: Arc<Store>,
    clock: Clock,
    remote: Arc<Remote>,
    _background: JoinSet<()>,
}

fn claims() -> Claims {
    Claims {
        groups: vec![GroupSource { claim: "groups".to_owned(), prefix: String::new() }],
        form: GroupForm::Full,
        allowed: Vec::new(),
        admin: vec!["/admins".to_owned()],
        username: "email".to_owned(),
        verified_email: true,
        machine_names: Vec::new(),
    }
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Trusted)) -> Self {
        let provider = FakeProvider::start(&[&RSA]);
        let endpoint = Endpoint {
            issuer: provider.issuer(),
            discovery_url: provider.url(METADATA).parse().unwrap(),
            internal_url: None,
            jwks_url: None,
            ca: Vec::new(),
            bearer_file: None,
            algorithms: vec![Algorithm::RS256],
        };
        let remote = Remote::new(&endpoint, &config::Egress::default()).unwrap();
        let issuer = config::Issuer {
            name: "keycloak".to_owned(),
            endpoint,
            audiences: vec!["mlflow".to_owned()],
            authorized_parties: Vec::new(),
            leeway: Duration::from_secs(30),
            claims: claims(),
            preset: Preset::Standard,
            machines: vec![Machine {
                conditions: vec![("azp".to_owned(), "ci".to_owned())],
                name: "bot".to_owned(),
                groups: vec!["/ml/ci".to_owned()],
            }],
        };
        let mut trusted = Trusted { issuer, remote: Arc::clone(&remote), login: None };
        change(&mut trusted);
        let clock = Clock::manual(START);
        let store = Arc::new(Store::open("sqlite::memory:", clock.clone()).await.unwrap());
        let authn = Authn::new(&crate::authn::tests::config(), Arc::clone(&store), clock.clone());
        let authn = Arc::new(authn.with_trusted_issuers(vec![trusted]));
        let mut background = JoinSet::new();
        let kept = Arc::clone(&remote);
        background.spawn(async move { kept.keep_fresh(|_, _| {}).await });
        // Waits for the first round's end: until then nobody makes a provider be asked again.
        remote.description().await.expect("the provider's description");
        Self { provider, authn, store, clock, remote, _background: background }
    }

    fn now(&self) -> i64 {
        self.clock.now().0 / 1000
    }

    fn claims(&self, changes: &Value) -> Value {
        let mut claims = json!({
            "iss": self.provider.issuer(), "aud": "mlflow", "sub": "f3a1", "typ": "Bearer", "iat": self.now(),
            "exp": self.now() + 3600, "email": "ann@example.com", "email_verified": true, "groups": ["/ml/team-a"],
        });
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(name),
                value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
            };
        }
        claims
    }

    fn token(&self, changes: &Value) -> String {
        RSA.token("RS256", &self.claims(changes))
    }

    async fn ask(&self, token: &str) -> Result<Arc<Identity>, Error> {
        let header = format!("Bearer {token}");
        self.authn.authenticate(RawCredentials::authorization(header.as_bytes()), HERE).await
    }

    /// What becomes of it, in one word.
    async fn answer(&self, token: &str) -> String {
        match self.ask(token).await {
            Ok(identity) => identity.name.to_string(),
            Err(Error::Failed(reason)) => reason.to_string(),
            Err(error) => error.to_string(),
        }
    }

    async fn user(&self) -> Option<User> {
        self.store.user_by_identity(&self.provider.issuer(), "f3a1").await.unwrap()
    }

    async fn person(&self) -> store::Person {
        self.user().await.unwrap().person.unwrap()
    }

    async fn audited(&self) -> usize {
        self.store.audit_log(1000).await.unwrap().len()
    }
}

#[tokio::test]
async fn the_first_token_makes_an_account_and_the_token_says_what_it_may_do() {
    let world = World::new().await;
    let identity = world.ask(&world.token(&json!({}))).await.unwrap();
    assert_eq!((&*identity.name, identity.scheme), ("ann@example.com", Scheme::Jwt));
    assert_eq!(identity.groups.as_ref(), ["/ml/team-a"]);
    assert!(!identity.admin);
    assert!(world.ask(&world.token(&json!({ "groups": ["/admins"] }))).await.unwrap().admin);
    assert_eq!(world.user().await.unwrap().id, identity.user);
}

#[tokio::test]
async fn a_warm_token_is_neither_verified_nor_written_down_again() {
    let world = World::new().await;
    let token = world.token(&json!({}));
    world.ask(&token).await.unwrap();
    let audited = world.audited().await;
    world.clock.advance(Duration::from_secs(60));
    world.authn.forget_all();
    world.ask(&token).await.unwrap();
    assert_eq!(world.person().await.seen, START);
    assert_eq!(world.audited().await, audited);
    world.clock.advance(Duration::from_secs(3600));
    assert_eq!(world.answer(&token).await, "jwt_expired");
}

#[tokio::test]
async fn a_withdrawn_key_stops_the_tokens_that_it_signed_even_those_that_were_verified() {
    let world = World::new().await;
    let token = world.token(&json!({}));
    world.ask(&token).await.unwrap();
    world.provider.publish(&[&OTHER_RSA]);
    world.remote.refresh(&|_, _| {}).await.unwrap();
    world.authn.forget_all();
    assert_eq!(world.answer(&token).await, "jwt_unknown_key");
}

#[tokio::test]
async fn a_rotated_key_works_within_one_request() {
    let world = World::new().await;
    world.provider.publish(&[&RSA, &OTHER_RSA]);
    let token = OTHER_RSA.token("RS256", &world.claims(&json!({})));
    assert_eq!(world.answer(&token).await, "ann@example.com");
}

#[tokio::test]
async fn a_token_of_no_issuer_of_ours_is_refused_without_asking_anybody() {
    let world = World::new().await;
    let evil = FakeProvider::start(&[&OTHER_RSA]);
    let before = world.provider.requests(CERTS).len();
    for iss in [json!(evil.issuer()), json!(format!("{}/", world.provider.issuer())), json!(5), Value::Null] {
        let token = OTHER_RSA.token("RS256", &world.claims(&json!({ "iss": iss })));
        assert_eq!(world.answer(&token).await, "jwt_issuer");
    }
    assert!(evil.requests(METADATA).is_empty() && evil.requests(CERTS).is_empty());
    assert_eq!(world.provider.requests(CERTS).len(), before);
}

#[tokio::test]
async fn tokens_of_other_kinds_and_for_others_are_refused() {
    let world = World::new().await;
    for (changes, word) in [
        (json!({ "aud": "grafana" }), "jwt_audience"),
        (json!({ "typ": "ID", "nonce": "n" }), "jwt_kind"),
        (json!({ "typ": "Refresh" }), "jwt_kind"),
        (json!({ "events": {} }), "jwt_kind"),
        (json!({ "email_verified": false }), "jwt_claims"),
        (json!({ "email": null }), "jwt_claims"),
    ] {
        assert_eq!(world.answer(&world.token(&changes)).await, word, "{changes}");
    }
    assert_eq!(world.answer(&RSA.token("HS256", &world.claims(&json!({})))).await, "jwt_algorithm");
    assert!(world.user().await.is_none(), "nobody was made");
}

#[tokio::test]
async fn a_token_is_never_a_guess_however_often_it_fails() {
    let world = World::new().await;
    let bad = OTHER_RSA.token_with(&json!({ "alg": "RS256", "kid": "rsa-1" }), &world.claims(&json!({})));
    for _ in 0..50 {
        assert_eq!(world.answer(&bad).await, "jwt_signature");
    }
    assert_eq!(world.answer(&world.token(&json!({}))).await, "ann@example.com");
}

#[tokio::test]
async fn somebody_in_no_allowed_group_gets_no_account_and_no_entry() {
    let world = World::with(|trusted| trusted.issuer.claims.allowed = vec!["/ml/**".to_owned()]).await;
    assert_eq!(world.answer(&world.token(&json!({ "groups": ["/mlx"] }))).await, "owner_not_allowed");
    assert!(world.user().await.is_none());
    assert_eq!(world.answer(&world.token(&json!({}))).await, "ann@example.com");
    assert!(world.person().await.allowed);
    // Once they leave, what they left behind knows.
    assert_eq!(world.answer(&world.token(&json!({ "groups": [] }))).await, "owner_not_allowed");
    assert!(!world.person().await.allowed);
}

#[tokio::test]
async fn a_name_that_somebody_else_has_is_refused() {
    let world = World::new().await;
    assert_eq!(world.answer(&world.token(&json!({}))).await, "ann@example.com");
    assert_eq!(world.answer(&world.token(&json!({ "sub": "another" }))).await, "name_taken");
    let actor = Actor { name: "test".to_owned(), token: None, address: None };
    let hash = crate::crypto::PasswordHash::make(&"sesame".into());
    world.store.create_user(&actor, "bob@example.com", Some(&hash), false).await.unwrap();
    let taken = world.token(&json!({ "sub": "b", "email": "Bob@example.com" }));
    assert_eq!(world.answer(&taken).await, "name_taken");
}

#[tokio::test]
async fn a_token_without_a_groups_claim_says_nothing_about_groups() {
    let world = World::new().await;
    world.ask(&world.token(&json!({}))).await.unwrap();
    let identity = world.ask(&world.token(&json!({ "groups": null }))).await.unwrap();
    assert_eq!(&*identity.groups, ["/ml/team-a"], "what is denied to a group stays denied");
    assert_eq!(world.person().await.groups, ["/ml/team-a"], "and takes nothing away");
}

#[tokio::test]
async fn an_older_token_does_not_overwrite_what_a_newer_one_said() {
    let world = World::new().await;
    let old = world.token(&json!({}));
    world.clock.advance(Duration::from_secs(10));
    world.ask(&world.token(&json!({ "groups": ["/ml/team-b"] }))).await.unwrap();
    assert_eq!(world.ask(&old).await.unwrap().groups.as_ref(), ["/ml/team-a"]);
    assert_eq!(world.person().await.groups, ["/ml/team-b"]);
}

#[tokio::test]
async fn a_token_from_before_the_provider_ended_everything_rests_and_a_newer_one_does_not() {
    let world = World::new().await;
    let (warm, cold) = (world.token(&json!({})), world.token(&json!({ "jti": "2" })));
    let user = world.ask(&warm).await.unwrap().user;
    world.clock.advance(Duration::from_secs(5));
    let actor = Actor { name: "test".to_owned(), token: None, address: None };
    world.store.suspend(&actor, user, "logout").await.unwrap();
    world.authn.forget_all();
    assert_eq!(world.answer(&warm).await, "owner_suspended");
    assert_eq!(world.answer(&cold).await, "owner_suspended");
    assert!(world.person().await.suspended.is_some());
    world.clock.advance(Duration::from_secs(5));
    assert_eq!(world.answer(&world.token(&json!({}))).await, "ann@example.com");
    assert!(world.person().await.suspended.is_some(), "only a sign-in ends it");
}

#[tokio::test]
async fn a_token_that_says_what_another_said_costs_no_look_into_the_store() {
    let world = World::new().await;
    let (first, second) = (world.token(&json!({})), world.token(&json!({ "jti": "2", "exp": world.now() + 7200 })));
    let user = world.ask(&first).await.unwrap().user;
    // The first request created the account, which is a change: the identity is loaded once more, with the next token.
    world.ask(&world.token(&json!({ "jti": "1" }))).await.unwrap();
    world.store.close().await;
    assert_eq!(world.ask(&second).await.unwrap().user, user);
    for other in [json!({ "groups": ["/ml/team-b"] }), json!({ "email": "ann@example.org" }), json!({ "sub": "f3a2" })]
    {
        assert!(matches!(world.ask(&world.token(&other)).await, Err(Error::Store(_))), "{other}");
    }
    assert_eq!(world.answer(&OTHER_RSA.token("RS256", &world.claims(&json!({})))).await, "jwt_unknown_key");
    assert_eq!(world.answer(&world.token(&json!({ "aud": "other" }))).await, "jwt_audience");
    world.authn.forget_all();
    assert!(matches!(world.ask(&world.token(&json!({ "jti": "3" }))).await, Err(Error::Store(_))), "something changed");
}

#[tokio::test]
async fn a_token_that_outlived_a_suspension_wakes_no_older_one() {
    let world = World::new().await;
    let old = world.token(&json!({}));
    let user = world.ask(&world.token(&json!({ "jti": "2" }))).await.unwrap().user;
    let actor = Actor { name: "test".to_owned(), token: None, address: None };
    world.clock.advance(Duration::from_secs(5));
    world.store.suspend(&actor, user, "logout").await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    let newer = world.token(&json!({ "jti": "3" }));
    world.clock.advance(Duration::from_secs(5));
    // The provider's list says that all is well, which ends no suspension.
    let (issuer, groups) = (world.provider.issuer(), ["/ml/team-a".to_owned(), "/ml/team-b".to_owned()]);
    let seen = Seen {
        issuer: &issuer,
        subject: "f3a1",
        name: "ann@example.com",
        groups: &groups,
        admin: false,
        allowed: true,
        owns_plain_names: false,
    };
    let user = world.user().await.unwrap();
    world.store.follow(&actor, &user, seen, world.clock.now()).await.unwrap();
    world.authn.forget_all();
    assert!(world.person().await.suspended.is_some());
    assert_eq!(world.answer(&newer).await, "ann@example.com");
    assert_eq!(world.answer(&old).await, "owner_suspended");
}

#[tokio::test]
async fn a_token_from_before_a_suspension_is_refused_where_a_newer_one_is_in_memory() {
    let world = World::new().await;
    // No process has seen it; its claims are those of the newer one, apart from `iat` and `jti`.
    let old = world.token(&json!({}));
    let user = world.ask(&world.token(&json!({ "jti": "2" }))).await.unwrap().user;
    world.clock.advance(Duration::from_secs(5));
    let actor = Actor { name: "test".to_owned(), token: None, address: None };
    world.store.suspend(&actor, user, "logout").await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    for jti in ["3", "4"] {
        assert_eq!(world.answer(&world.token(&json!({ "jti": jti }))).await, "ann@example.com");
    }
    assert_eq!(world.answer(&old).await, "owner_suspended");
}

#[tokio::test]
async fn an_old_token_hides_no_news_that_a_newer_one_brings() {
    let world = World::new().await;
    let old = world.token(&json!({}));
    world.clock.advance(Duration::from_secs(10));
    world.ask(&world.token(&json!({ "groups": ["/admins"] }))).await.unwrap();
    assert!(world.person().await.admin);
    world.clock.advance(Duration::from_secs(10));
    let newer = world.token(&json!({ "jti": "2" }));
    world.ask(&old).await.unwrap();
    world.ask(&newer).await.unwrap();
    assert!(!world.person().await.admin, "they are no administrator any more");
    // The same within the half second before the store's revision is looked at.
    world.clock.advance(Duration::from_secs(10));
    for groups in [["/admins"], ["/ml/team-a"], ["/admins"], ["/ml/team-a"]] {
        world.ask(&world.token(&json!({ "groups": groups, "jti": world.clock.now().0.to_string() }))).await.unwrap();
        assert_eq!(world.person().await.groups, groups);
        world.clock.advance(Duration::from_secs(1));
    }
}

#[tokio::test]
async fn where_people_sign_in_too_what_is_kept_of_them_is_what_log_in_would_keep() {
    let login = Claims { allowed: vec!["/ml/**".to_owned()], admin: Vec::new(), ..claims() };
    let world = World::with(|trusted| trusted.login = Some(login)).await;
    let identity = world.ask(&world.token(&json!({ "groups": ["/ml/team-a", "/admins"] }))).await.unwrap();
    assert!(identity.admin, "by the rules for bearers");
    assert!(!world.person().await.admin, "by those of log-in");
    assert_eq!(world.answer(&world.token(&json!({ "groups": ["/x"] }))).await, "owner_not_allowed");
    assert!(!world.person().await.allowed);
}

#[tokio::test]
async fn a_token_with_a_part_of_the_groups_takes_none_of_the_others_away() {
    let source = |claim: &str| GroupSource { claim: claim.to_owned(), prefix: String::new() };
    let both = vec![source("groups"), source("realm_access.roles")];
    let login = Claims { groups: both.clone(), allowed: vec!["/ml/**".to_owned()], ..claims() };
    let world = World::with(|trusted| {
        trusted.issuer.claims.groups = both;
        trusted.login = Some(login);
    })
    .await;
    let roles = |roles: &[&str]| json!({ "roles": roles });
    let part = json!({ "groups": null, "realm_access": roles(&["reader"]) });
    assert_eq!(world.answer(&world.token(&part)).await, "owner_not_allowed", "nobody vouches for them yet");
    assert!(world.user().await.is_none());
    world.ask(&world.token(&json!({ "realm_access": roles(&["reader"]) }))).await.unwrap();
    let identity = world.ask(&world.token(&part)).await.unwrap();
    assert_eq!(&*identity.groups, ["reader"], "by what it says");
    assert_eq!(world.person().await.groups, ["/ml/team-a", "reader"]);
    assert!(world.person().await.allowed);
    world.ask(&world.token(&json!({ "groups": ["/ml/team-b"], "realm_access": roles(&[]) }))).await.unwrap();
    assert_eq!(world.person().await.groups, ["/ml/team-b"]);
}

#[tokio::test]
async fn a_program_that_a_rule_names_needs_no_account_before_and_is_the_same_in_every_run() {
    let world = World::new().await;
    let job = |sub: &str| json!({ "sub": sub, "azp": "ci", "email": null, "email_verified": null, "groups": null });
    let first = world.ask(&world.token(&job("run-1"))).await.unwrap();
    let second = world.ask(&world.token(&job("run-2"))).await.unwrap();
    assert_eq!((&*first.name, first.groups.as_ref()), ("bot", &["/ml/ci".to_owned()][..]));
    assert_eq!(first.user, second.user);
}

#[tokio::test]
async fn without_keys_the_answer_is_try_again_and_not_wrong_credentials() {
    let world = World::new().await;
    let away = FakeProvider::start(&[]);
    let endpoint = Endpoint {
        issuer: away.issuer(),
        discovery_url: away.url(METADATA).parse().unwrap(),
        ..world.remote.endpoint().clone()
    };
    let remote = Remote::with_timing(
        &endpoint,
        &config::Egress::default(),
        Timing { patience: Duration::ZERO, ..Timing::default() },
    )
    .unwrap();
    let trusted = &world.authn.issuers[0];
    let issuer = config::Issuer { endpoint, ..trusted.issuer.clone() };
    let config = crate::authn::tests::config();
    let authn = Authn::new(&config, Arc::clone(&world.store), world.clock.clone());
    let authn = authn.with_trusted_issuers(vec![Trusted { issuer, remote, login: None }]);
    let header = format!("Bearer {}", world.token(&json!({ "iss": away.issuer() })));
    let outcome = authn.authenticate(RawCredentials::authorization(header.as_bytes()), HERE).await;
    assert!(matches!(outcome, Err(Error::NoKeys)));
}

#[tokio::test]
async fn a_flood_of_made_up_keys_is_refused_while_good_tokens_pass() {
    let world = World::new().await;
    let (good, before) = (world.token(&json!({})), world.provider.requests(CERTS).len());
    for number in 0..200 {
        let header = json!({ "alg": "RS256", "kid": format!("made-up-{number}") });
        let token = OTHER_RSA.token_with(&header, &world.claims(&json!({})));
        assert_eq!(world.answer(&token).await, "jwt_unknown_key");
        assert_eq!(world.answer(&good).await, "ann@example.com");
    }
    assert_eq!(world.provider.requests(CERTS).len(), before + 1);
}
