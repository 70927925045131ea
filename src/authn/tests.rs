use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::authz::{Grant, Permission, ResourceKind, Selector};
use crate::store::{Actor, NewToken};

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

struct World {
    store: Arc<Store>,
    authn: Authn,
    clock: Clock,
    alice: User,
}

fn config() -> config::Authn {
    config::Authn {
        token_max_days: 365,
        cache_ttl: Duration::from_secs(60),
        cache_entries: 1000,
        hash_concurrency: 2,
        hash_queue: 200,
        guesses_per_address: 6,
        guesses_per_account: 4,
        guess_window: Duration::from_secs(300),
    }
}

fn actor() -> Actor {
    Actor { name: "test".to_owned(), token: None, address: None }
}

async fn world() -> World {
    let clock = Clock::manual(Timestamp(1_000_000));
    let store = Arc::new(Store::open("sqlite::memory:", clock.clone()).await.expect("a store"));
    let authn = Authn::new(&config(), Arc::clone(&store), clock.clone());
    let hash = authn.hash_password("alice's password".into()).await.expect("a hash");
    let alice = store.create_user(&actor(), "alice", Some(&hash), false).await.expect("alice");
    World { store, authn, clock, alice }
}

fn basic(user: &str, password: &str) -> Vec<u8> {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))).into_bytes()
}

fn bearer(token: &AccessToken) -> Vec<u8> {
    format!("Bearer {}", token.reveal()).into_bytes()
}

impl World {
    async fn token(&self, name: &str, days: u64) -> (AccessToken, TokenId) {
        let token = AccessToken::generate();
        let expires = self.clock.now().plus(Duration::from_secs(days * 86_400));
        let limits = Limits::default();
        let new = NewToken { user: self.alice.id, name, hash: token.hash(), limits: &limits, expires };
        let id = self.store.create_token(&actor(), new).await.expect("a token").id;
        (token, id)
    }

    async fn ask(&self, authorization: &[u8]) -> Result<Arc<Identity>, Error> {
        self.authn.authenticate(Some(authorization), ADDRESS).await
    }

    #[track_caller]
    fn refused(answer: Result<Arc<Identity>, Error>, because: Reason) {
        match answer {
            Err(Error::Failed(reason)) => assert_eq!(reason, because),
            other => panic!("{because:?} expected, not {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_password_and_a_token_prove_who_is_asking() {
    let world = world().await;
    let (token, id) = world.token("ci", 1).await;
    let by_password = world.ask(&basic("alice", "alice's password")).await.expect("alice");
    assert_eq!((&*by_password.name, by_password.scheme), ("alice", Scheme::Password));
    for shown in [basic("alice", token.reveal()), bearer(&token), format!("bearer  {}", token.reveal()).into_bytes()] {
        let identity = world.ask(&shown).await.expect("alice");
        assert_eq!((&*identity.name, identity.scheme), ("alice", Scheme::Token(id)));
    }
}

#[tokio::test]
async fn a_wrong_credential_ends_the_attempt() {
    let world = world().await;
    let (token, _) = world.token("ci", 1).await;
    for (shown, because) in [
        (basic("alice", "wrong password"), Reason::WrongPassword),
        (basic("nobody", "alice's password"), Reason::UnknownUser),
        (basic("bob", token.reveal()), Reason::TokenOfAnother),
        (basic("alice", &format!("{}0", token.reveal())), Reason::MalformedToken),
    ] {
        World::refused(world.ask(&shown).await, because);
    }
    let world = self::world().await;
    for (shown, because) in [
        (bearer(&AccessToken::generate()), Reason::UnknownToken),
        (b"Bearer eyJhbGciOi".to_vec(), Reason::UnknownScheme),
        (b"Negotiate abc".to_vec(), Reason::UnknownScheme),
        (b"Basic".to_vec(), Reason::Unreadable),
    ] {
        World::refused(world.ask(&shown).await, because);
    }
    let world = self::world().await;
    for text in ["Basic !!!", "Basic YWxpY2U=", "Basic OnB3", "Basic YWxpY2U6"] {
        World::refused(world.ask(text.as_bytes()).await, Reason::Unreadable);
    }
    assert!(matches!(world.authn.authenticate(None, ADDRESS).await, Err(Error::Missing)));
}

#[tokio::test]
async fn a_token_stops_when_it_expires_is_revoked_or_rotated() {
    let world = world().await;
    let (expiring, _) = world.token("short", 1).await;
    world.ask(&bearer(&expiring)).await.expect("live");
    world.clock.advance(Duration::from_secs(86_400));
    assert!(world.authn.recent(&bearer(&expiring)).is_none(), "also in the cache");
    World::refused(world.ask(&bearer(&expiring)).await, Reason::ExpiredToken);

    let (revoked, id) = world.token("revoked", 1).await;
    world.ask(&bearer(&revoked)).await.expect("live");
    world.store.revoke_token(&actor(), id).await.expect("revoked");
    world.authn.forget(world.alice.id);
    World::refused(world.ask(&bearer(&revoked)).await, Reason::RevokedToken);

    let (old, id) = world.token("rotated", 1).await;
    world.ask(&bearer(&old)).await.expect("live");
    let new = AccessToken::generate();
    let expires = world.clock.now().plus(Duration::from_secs(60));
    world.store.rotate_token(&actor(), id, new.hash(), expires).await.expect("rotated");
    world.authn.forget(world.alice.id);
    World::refused(world.ask(&bearer(&old)).await, Reason::UnknownToken);
    world.ask(&bearer(&new)).await.expect("the new secret");
}

#[tokio::test]
async fn what_another_process_changes_is_seen_at_the_next_look() {
    let world = world().await;
    world.authn.refresh().await;
    let shown = basic("alice", "alice's password");
    let before = world.ask(&shown).await.expect("alice");
    assert_eq!(before.grants.level(ResourceKind::Experiment, "1"), None);
    world.authn.refresh().await;
    assert!(world.authn.recent(&shown).is_some(), "nothing changed");
    let grant = Grant {
        subject: Subject::User(world.alice.id),
        kind: ResourceKind::Experiment,
        selector: Selector::Exact("1".to_owned()),
        permission: Permission::Read,
    };
    world.store.set_grant(&actor(), &grant).await.expect("a grant");
    world.authn.refresh().await;
    assert!(world.authn.recent(&shown).is_none());
    let after = world.ask(&shown).await.expect("alice");
    assert_eq!(after.grants.level(ResourceKind::Experiment, "1"), Some(Permission::Read));
}

#[tokio::test]
async fn a_changed_password_works_at_once_and_the_old_one_no_more() {
    let world = world().await;
    let old = basic("alice", "alice's password");
    world.ask(&old).await.expect("alice");
    let hash = world.authn.hash_password("another password".into()).await.expect("a hash");
    world.store.set_password(&actor(), world.alice.id, &hash).await.expect("changed");
    world.authn.forget(world.alice.id);
    World::refused(world.ask(&old).await, Reason::WrongPassword);
    world.ask(&basic("alice", "another password")).await.expect("alice");
}

#[tokio::test]
async fn guessing_is_limited_per_account_and_knowing_is_not() {
    let world = world().await;
    let (token, _) = world.token("ci", 1).await;
    let right = basic("alice", "alice's password");
    world.ask(&right).await.expect("alice");
    for guess in 0..4 {
        World::refused(world.ask(&basic("alice", &format!("guess number {guess}"))).await, Reason::WrongPassword);
    }
    // From anywhere else too: the account is what is counted.
    let guess = world.authn.authenticate(Some(&basic("alice", "guess number 5")), ELSEWHERE).await;
    let Err(Error::TooManyAttempts { retry_after }) = guess else { panic!("limited, not {guess:?}") };
    assert!(retry_after <= Duration::from_secs(300) && retry_after > Duration::from_secs(290));
    world.authn.forget_all();
    world.ask(&right).await.expect("a password that was right is not held up");
    world.ask(&bearer(&token)).await.expect("nor is a token");
    world.clock.advance(Duration::from_secs(301));
    World::refused(world.ask(&basic("alice", "guess number 6")).await, Reason::WrongPassword);
}

#[tokio::test]
async fn guessing_is_limited_per_address_also_for_names_that_do_not_exist() {
    let world = world().await;
    for guess in 0..6 {
        World::refused(world.ask(&basic(&format!("user{guess}"), "some password")).await, Reason::UnknownUser);
    }
    assert!(matches!(world.ask(&basic("user7", "some password")).await, Err(Error::TooManyAttempts { .. })));
    assert!(matches!(world.ask(&bearer(&AccessToken::generate())).await, Err(Error::TooManyAttempts { .. })));
    let elsewhere = world.authn.authenticate(Some(&basic("user8", "some password")), ELSEWHERE).await;
    World::refused(elsewhere, Reason::UnknownUser);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_guesses_do_not_slip_through() {
    let world = Arc::new(world().await);
    let guesses: Vec<_> = (0..40)
        .map(|guess| {
            let world = Arc::clone(&world);
            tokio::task::spawn(async move { world.ask(&basic("alice", &format!("parallel guess {guess}"))).await })
        })
        .collect();
    let mut checked = 0;
    for guess in guesses {
        match guess.await.expect("no panic") {
            Err(Error::Failed(Reason::WrongPassword)) => checked += 1,
            Err(Error::TooManyAttempts { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(checked, 4);
}

#[tokio::test]
async fn an_unknown_name_is_answered_as_a_wrong_password_is() {
    let world = world().await;
    let unknown = world.ask(&basic("nobody", "some password")).await.expect_err("refused");
    let wrong = world.ask(&basic("alice", "some password")).await.expect_err("refused");
    assert!(matches!((unknown, wrong), (Error::Failed(_), Error::Failed(_))));
    // Both went through one argon2 verification.
    assert!(world.authn.passwords.has_decoy());
}
