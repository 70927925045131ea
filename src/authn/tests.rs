//! What people, programs and attackers see. The clock stands still unless a test moves it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::task::JoinSet;

use super::*;
use crate::authz::{Grant, Permission, ResourceKind, Selector, Subject, TokenId};
use crate::crypto::{AccessToken, PasswordHash};
use crate::store::{AccessTokens, Actor, NewToken, Token};

pub(super) const START: Timestamp = Timestamp(1_700_000_000_000);
pub(super) const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
pub(super) const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 9));
pub(super) const TTL: Duration = Duration::from_mins(5);
pub(super) const WINDOW: Duration = Duration::from_mins(15);
pub(super) const DAY: Duration = Duration::from_hours(24);
pub(super) const PER_ADDRESS: u32 = 6;
pub(super) const PER_ACCOUNT: u32 = 3;

/// An `Authn` before a store with `alice` (password `sesame`) and `bob` (no password).
pub(super) struct World {
    pub(super) authn: Arc<Authn>,
    pub(super) store: Arc<Store>,
    pub(super) clock: Clock,
    pub(super) alice: User,
    pub(super) bob: User,
}

impl World {
    pub(super) async fn new() -> Self {
        let clock = Clock::manual(START);
        let store = Arc::new(Store::open("sqlite::memory:", clock.clone()).await.unwrap());
        Self::before(store, clock).await
    }

    /// On a database of PostgreSQL, whose counters all processes share.
    pub(super) async fn shared(url: &str) -> Self {
        let clock = Clock::manual(START);
        let store = Arc::new(Store::open(url, clock.clone()).await.unwrap());
        let world = Self::before(store, clock).await;
        Self { authn: world.process().await, ..world }
    }

    /// Another process on the same store.
    pub(super) async fn process(&self) -> Arc<Authn> {
        let authn = Authn::new(&config(), Arc::clone(&self.store), self.clock.clone());
        Arc::new(authn.with_shared_limits(&self.store.sealing_key().await.unwrap(), TaskTracker::new()))
    }

    async fn before(store: Arc<Store>, clock: Clock) -> Self {
        let sesame = PasswordHash::make(&"sesame".into());
        let alice = store.create_user(&actor(), "alice", Some(&sesame), false).await.unwrap();
        let bob = store.create_user(&actor(), "bob", None, true).await.unwrap();
        let authn = Arc::new(Authn::new(&config(), Arc::clone(&store), clock.clone()));
        Self { authn, store, clock, alice, bob }
    }

    pub(super) async fn token(&self, owner: &User, name: &str) -> (AccessToken, Token) {
        let (secret, limits) = (AccessToken::generate(), Limits::parse(["read-only"]).unwrap());
        let (user, hash, expires) = (owner.id, secret.hash(), self.clock.now().plus(DAY));
        let token = NewToken { user, name, hash, limits: &limits, expires };
        (secret, self.store.create_token(&actor(), token).await.unwrap())
    }

    pub(super) async fn ask(&self, header: &str, address: IpAddr) -> Result<Arc<Identity>, Error> {
        self.authn.authenticate(RawCredentials::authorization(header.as_bytes()), address).await
    }

    /// What becomes of it, in one word.
    pub(super) async fn answer(&self, header: &str, address: IpAddr) -> String {
        match self.ask(header, address).await {
            Ok(identity) => identity.name.to_string(),
            Err(Error::Failed(reason)) => reason.to_string(),
            Err(Error::TooManyAttempts { .. }) => "too_many".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// As [`World::answer`], and fails when the number of passwords hashed meanwhile is another.
    pub(super) async fn answer_after(&self, hashes: u64, header: &str, address: IpAddr) -> String {
        let before = self.authn.hashing.runs();
        let answer = self.answer(header, address).await;
        assert_eq!(self.authn.hashing.runs() - before, hashes, "hashes for the answer {answer}");
        answer
    }

    pub(super) fn recent(&self, header: &str) -> Option<String> {
        self.authn.recent(RawCredentials::authorization(header.as_bytes())).map(|identity| identity.name.to_string())
    }
}

pub(super) fn config() -> config::Authn {
    config::Authn {
        cache_ttl: TTL,
        hash_queue: 100,
        guesses_per_address: PER_ADDRESS,
        guesses_per_account: PER_ACCOUNT,
        guess_window: WINDOW,
        person_max_age: None,
        ..config::defaults().unwrap().authn
    }
}

pub(super) fn actor() -> Actor {
    Actor { name: "root".to_owned(), token: None, address: None }
}

pub(super) fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

/// An address from which no request has come.
pub(super) fn new_address(number: u32) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0001 + number))
}

pub(super) fn bearer(token: &AccessToken) -> String {
    format!("Bearer {}", token.reveal())
}

#[tokio::test]
async fn a_password_proves_its_owner() {
    let world = World::new().await;
    let grant = Grant {
        subject: Subject::User(world.alice.id),
        kind: ResourceKind::Experiment,
        selector: Selector::Exact("12".to_owned()),
        permission: Permission::Edit,
    };
    world.store.create_grant(&actor(), &grant).await.unwrap();
    let identity = world.ask(&basic("alice", "sesame"), HERE).await.unwrap();
    assert_eq!((identity.user, &*identity.name, identity.admin), (world.alice.id, "alice", false));
    assert_eq!((identity.scheme, identity.limits.is_unlimited()), (Scheme::Password, true));
    assert_eq!(
        identity.grants.level(&crate::authz::Resource::new(ResourceKind::Experiment, "12")),
        Some(Permission::Edit)
    );
    assert!(matches!(world.authn.authenticate(RawCredentials::default(), HERE).await, Err(Error::Missing)));
}

#[tokio::test]
async fn an_unknown_user_a_wrong_password_and_no_password_cost_one_hash_each() {
    let world = World::new().await;
    for (name, password, answer) in [
        ("alice", "Sesame", "wrong_password"),
        ("nobody", "sesame", "unknown_user"),
        ("Alice", "sesame", "unknown_user"),
        ("bob", "", "wrong_password"),
        ("", "", "unknown_user"),
    ] {
        assert_eq!(world.answer_after(1, &basic(name, password), HERE).await, answer, "{name}");
    }
}

#[tokio::test]
async fn a_token_works_as_bearer_and_as_its_owners_password() {
    let world = World::new().await;
    let (secret, token) = world.token(&world.bob, "ci").await;
    for header in [
        bearer(&secret),
        format!("bearer {}", secret.reveal()),
        format!("BEARER   {}", secret.reveal()),
        basic("bob", secret.reveal()),
        basic("bob", secret.reveal()).replace("Basic", "basic"),
    ] {
        let identity = world.ask(&header, HERE).await.unwrap();
        assert_eq!((&*identity.name, identity.admin, identity.scheme), ("bob", true, Scheme::Token(token.id)));
        assert!(identity.limits.read_only);
    }
    assert_eq!(world.authn.hashing.runs(), 0);
}

#[tokio::test]
async fn a_token_under_another_name_or_altered_is_refused_and_never_tried_as_a_password() {
    let world = World::new().await;
    let (secret, _) = world.token(&world.bob, "ci").await;
    let mut altered = secret.reveal().to_owned();
    let last = altered.pop().unwrap();
    altered.push(if last == '0' { '1' } else { '0' });
    for (header, answer) in [
        (basic("alice", secret.reveal()), "token_of_another"),
        (basic("BOB", secret.reveal()), "token_of_another"),
        (basic("", secret.reveal()), "token_of_another"),
        (basic("bob", &altered), "malformed_token"),
        (basic("bob", "mlap_"), "malformed_token"),
        (format!("Bearer {altered}"), "malformed_token"),
        (format!("Bearer {} ", secret.reveal()), "malformed_token"),
        (bearer(&AccessToken::generate()), "unknown_token"),
        (basic("bob", AccessToken::generate().reveal()), "unknown_token"),
    ] {
        assert_eq!(world.answer_after(0, &header, HERE).await, answer, "{header}");
    }
}

#[tokio::test]
async fn a_header_has_one_meaning_or_none() {
    let world = World::new().await;
    let raw = |bytes: &[u8]| format!("Basic {}", STANDARD.encode(bytes));
    let good = basic("alice", "sesame");
    for (header, answer) in [
        (String::new(), "unreadable"),
        ("Basic".to_owned(), "unreadable"),
        ("Basic ".to_owned(), "unreadable"),
        ("Basic !!!".to_owned(), "unreadable"),
        (format!("{good}="), "unreadable"),
        (format!("{good}, {good}"), "unreadable"),
        (format!("{good} "), "unreadable"),
        (good.replace("Basic ", "Basic \t"), "unreadable"),
        (raw(b"no colon"), "unreadable"),
        (raw(b"alice\0:sesame"), "unreadable"),
        (raw(b"alice:sesame\0"), "unreadable"),
        (raw(b"alice:ses\name"), "unreadable"),
        (raw(b"alice\x7f:sesame"), "unreadable"),
        (raw("alice:ses\u{85}ame".as_bytes()), "unreadable"),
        (raw(b"alice:\xffsesame"), "unreadable"),
        (raw(&[b'a'; 5000]), "unreadable"),
        (good.replace("Basic ", "Basic"), "unknown_scheme"),
        (good.replace("Basic", "Digest"), "unknown_scheme"),
        ("Bearer".to_owned(), "unknown_scheme"),
        ("Bearer eyJhbGciOiJub25lIn0.e30.".to_owned(), "jwt_algorithm"),
        ("Bearer sesame".to_owned(), "unknown_scheme"),
    ] {
        assert_eq!(world.answer_after(0, &header, HERE).await, answer, "{header:?}");
    }
    let unpadded = raw(b"alice:sesam");
    assert!(unpadded.ends_with('='));
    assert_eq!(world.answer(unpadded.trim_end_matches('='), HERE).await, "unreadable");
}

#[tokio::test]
async fn a_password_may_have_colons_and_any_letters() {
    let world = World::new().await;
    let hash = world.authn.hash_password("a:b::ü 猫".into()).await.unwrap();
    world.store.set_password(&actor(), world.bob.id, &hash, AccessTokens::Keep).await.unwrap();
    assert_eq!(world.answer(&basic("bob", "a:b::ü 猫"), HERE).await, "bob");
}

#[tokio::test]
async fn what_was_just_recognised_is_recognised_without_store_or_hash() {
    let world = World::new().await;
    let (secret, _) = world.token(&world.bob, "ci").await;
    let (password, token) = (basic("alice", "sesame"), bearer(&secret));
    assert_eq!(world.recent(&password), None);
    world.ask(&password, HERE).await.unwrap();
    world.ask(&token, HERE).await.unwrap();
    world.store.close().await;
    assert_eq!(world.recent(&password).as_deref(), Some("alice"));
    assert_eq!(world.recent(&token).as_deref(), Some("bob"));
    assert_eq!(world.answer_after(0, &password, HERE).await, "alice");
    assert_eq!(world.recent(&basic("alice", "sesame2")), None);
    assert_eq!(world.recent(&password.replace("Basic", "basic")), None);
    world.clock.advance(TTL);
    assert_eq!((world.recent(&password), world.recent(&token)), (None, None));
    assert!(matches!(world.ask(&token, HERE).await, Err(Error::Store(store::Error::Unavailable(_)))));
    assert!(matches!(world.ask(&password, HERE).await, Err(Error::Store(store::Error::Unavailable(_)))));
}

#[tokio::test]
async fn a_token_ends_with_its_time_even_while_it_is_cached() {
    let world = World::new().await;
    let (secret, token) = world.token(&world.bob, "ci").await;
    world.clock.advance(DAY - Duration::from_secs(10));
    assert_eq!(world.answer(&bearer(&secret), HERE).await, "bob");
    assert!(world.recent(&bearer(&secret)).is_some());
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(world.clock.now(), token.expires);
    assert_eq!(world.recent(&bearer(&secret)), None);
    assert_eq!(world.answer(&bearer(&secret), HERE).await, "expired_token");
}

#[tokio::test]
async fn a_revoked_or_rotated_token_ends_at_once() {
    let world = World::new().await;
    let (secret, token) = world.token(&world.bob, "ci").await;
    world.ask(&bearer(&secret), HERE).await.unwrap();
    let rotated = AccessToken::generate();
    world.store.rotate_token(&actor(), token.id, rotated.hash(), START.plus(DAY)).await.unwrap();
    assert_eq!(world.recent(&bearer(&secret)), None);
    assert_eq!(world.answer(&bearer(&secret), HERE).await, "unknown_token");
    assert_eq!(world.answer(&bearer(&rotated), HERE).await, "bob");
    world.store.revoke_token(&actor(), token.id).await.unwrap();
    assert_eq!(world.recent(&bearer(&rotated)), None);
    assert_eq!(world.answer(&bearer(&rotated), HERE).await, "revoked_token");
}

#[tokio::test]
async fn a_changed_password_ends_the_old_one_at_once() {
    let world = World::new().await;
    assert_eq!(world.answer_after(1, &basic("alice", "sesame"), HERE).await, "alice");
    let hash = world.authn.hash_password("tahini".into()).await.unwrap();
    world.store.set_password(&actor(), world.alice.id, &hash, AccessTokens::Keep).await.unwrap();
    assert_eq!(world.recent(&basic("alice", "sesame")), None);
    assert_eq!(world.answer_after(1, &basic("alice", "sesame"), HERE).await, "wrong_password");
    assert_eq!(world.answer_after(1, &basic("alice", "tahini"), HERE).await, "alice");
}

#[tokio::test]
async fn forgetting_identities_does_not_make_known_passwords_be_hashed_again() {
    let world = World::new().await;
    let header = basic("alice", "sesame");
    assert_eq!(world.answer_after(1, &header, HERE).await, "alice");
    world.store.set_admin(&actor(), world.alice.id, true).await.unwrap();
    world.authn.forget_all();
    assert_eq!(world.recent(&header), None);
    assert_eq!(world.answer_after(0, &header, HERE).await, "alice");
    assert!(world.ask(&header, HERE).await.unwrap().admin, "the change is seen");
    world.store.delete_user(&actor(), world.alice.id).await.unwrap();
    assert_eq!(world.answer(&header, HERE).await, "unknown_user");
    world.store.release_name(&actor(), "alice").await.unwrap();
    world.store.create_user(&actor(), "alice", None, false).await.unwrap();
    assert_eq!(world.answer(&header, HERE).await, "wrong_password", "nor do they outlive the account");
}

#[tokio::test]
async fn an_identity_forgotten_while_it_was_loading_is_not_remembered() {
    let world = World::new().await;
    let header = basic("alice", "sesame");
    let held = world.authn.hashing.hold().await;
    let asking = world.ask(&header, HERE);
    tokio::pin!(asking);
    // It has read alice's row and waits for its turn to hash.
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut asking).await.is_err());
    world.store.set_admin(&actor(), world.alice.id, true).await.unwrap();
    drop(held);
    assert!(!asking.await.unwrap().admin, "asked before the change, answered as before it");
    assert_eq!(world.recent(&header), None);
    assert!(world.ask(&header, HERE).await.unwrap().admin);
}

#[tokio::test]
async fn a_hundred_first_requests_with_one_password_hash_it_once() {
    let world = World::new().await;
    let mut requests = JoinSet::new();
    for _ in 0..100 {
        let (authn, header) = (Arc::clone(&world.authn), basic("alice", "sesame"));
        requests.spawn(async move {
            authn.authenticate(RawCredentials::authorization(header.as_bytes()), HERE).await.map(drop)
        });
    }
    assert!(requests.join_all().await.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(world.authn.hashing.runs(), 1);
    assert_eq!(world.authn.single_flight.count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn the_last_use_of_a_token_is_handed_over_once_a_minute() {
    let world = World::new().await;
    let (secret, token) = world.token(&world.bob, "ci").await;
    let header = bearer(&secret);
    let last_used = async || world.store.token(token.id).await.unwrap().unwrap().last_used;
    world.ask(&header, HERE).await.unwrap();
    world.authn.write_last_uses().await.unwrap();
    assert_eq!(last_used().await, Some(START));
    for (seconds, expected) in [(30, 0), (29, 0), (1, 60), (30, 60), (40, 130)] {
        world.clock.advance(Duration::from_secs(seconds));
        if world.recent(&header).is_none() {
            world.ask(&header, HERE).await.unwrap();
        }
        world.authn.write_last_uses().await.unwrap();
        assert_eq!(last_used().await, Some(START.plus(Duration::from_secs(expected))));
    }
    assert_eq!(world.store.token(TokenId(token.id.0)).await.unwrap().unwrap().revoked, None);
}

#[tokio::test]
async fn a_change_in_another_process_is_seen_at_the_next_refresh() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("auth.db").display());
    let clock = Clock::manual(START);
    let other = Store::open(&url, clock.clone()).await.unwrap();
    let world = World::before(Arc::new(Store::open(&url, clock.clone()).await.unwrap()), clock).await;
    let (secret, token) = world.token(&world.bob, "ci").await;
    world.authn.follow_store().await;
    world.ask(&bearer(&secret), HERE).await.unwrap();
    world.authn.follow_store().await;
    assert!(world.recent(&bearer(&secret)).is_some(), "nothing changed, nothing forgotten");
    other.revoke_token(&actor(), token.id).await.unwrap();
    world.authn.follow_store().await;
    assert_eq!(world.recent(&bearer(&secret)), None);
    assert_eq!(world.answer(&bearer(&secret), HERE).await, "revoked_token");
}

#[tokio::test]
async fn requests_that_wait_for_a_credential_share_the_failure_of_the_store() {
    let world = World::new().await;
    let (secret, _) = world.token(&world.bob, "ci").await;
    let header = bearer(&secret);
    let key = world.authn.cache_key(RawCredentials::authorization(header.as_bytes())).unwrap();
    let mut first = world.authn.single_flight.enter(key).await;
    let waiting = world.ask(&header, HERE);
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(Duration::ZERO, waiting.as_mut()).await.is_err());
    first.fail();
    drop(first);
    assert!(matches!(waiting.await, Err(Error::Store(_))));
    assert_eq!(world.answer(&header, HERE).await, "bob", "who comes later asks the store");
    assert_eq!(world.authn.single_flight.count(), 0);
}

#[tokio::test]
async fn refreshing_without_a_store_loses_nothing() {
    let world = World::new().await;
    let (secret, _) = world.token(&world.bob, "ci").await;
    world.authn.follow_store().await;
    world.ask(&bearer(&secret), HERE).await.unwrap();
    world.store.close().await;
    world.authn.follow_store().await;
    assert!(world.authn.write_last_uses().await.is_err());
    assert!(world.authn.write_last_uses().await.is_err());
    assert!(world.recent(&bearer(&secret)).is_some());
    assert_eq!(world.authn.identities.take_used().len(), 1, "to be handed over later");
}

#[tokio::test]
async fn no_secret_shows_in_debug_or_errors() {
    let world = World::new().await;
    world.ask(&basic("alice", "sesame"), HERE).await.unwrap();
    let error = world.ask(&basic("alice", "open-up"), HERE).await.unwrap_err();
    let header = basic("alice", "open-up");
    let request = RawCredentials { authorization: Some(header.as_bytes()), session: Some("open-up") };
    let shown = format!("{:?} {error:?} {error} {request:?}", world.authn);
    assert!(!shown.contains(&format!("{:?}", header.as_bytes())), "{shown}");
    assert!(!shown.contains("sesame") && !shown.contains("open-up"), "{shown}");
}

fn grant_to(subject: Subject, permission: Permission) -> Grant {
    Grant { subject, kind: ResourceKind::Experiment, selector: Selector::Exact("12".to_owned()), permission }
}

/// Creates a user of an identity provider who is in these groups, with an access token.
async fn member(world: &World, name: &str, groups: &[String]) -> (User, String) {
    let seen = seen(name, groups);
    let user = world.store.meet(&actor(), seen, store::Occasion::SignIn).await.unwrap();
    let (secret, _) = world.token(&user, "ci").await;
    (user, bearer(&secret))
}

fn seen<'s>(name: &'s str, groups: &'s [String]) -> store::Seen<'s> {
    store::Seen {
        issuer: "https://id.example",
        subject: name,
        name,
        groups,
        admin: false,
        allowed: true,
        owns_plain_names: true,
    }
}

#[tokio::test]
async fn a_change_leaves_the_identities_that_it_does_not_affect() {
    let world = World::new().await;
    let role = world.store.create_role(&actor(), "default", "team", None).await.unwrap();
    let (ann, anns) = member(&world, "ann", &["/ml/a".to_owned()]).await;
    let (_, bens) = member(&world, "ben", &["/ml/b".to_owned()]).await;
    let (cid, cids) = member(&world, "cid", &[]).await;
    world.store.assign_role(&actor(), cid.id, role.id).await.unwrap();
    let (store, actor) = (&world.store, actor());
    let group = |text: &str| Subject::Group(text.to_owned());
    let warm = async || {
        for header in [&anns, &bens, &cids] {
            world.ask(header, HERE).await.unwrap();
        }
    };
    let known = || [&anns, &bens, &cids].map(|header| world.recent(header).is_some());
    let read = |subject| grant_to(subject, Permission::Read);
    warm().await;
    store.set_grant(&actor, &read(Subject::User(ann.id))).await.unwrap();
    assert_eq!(known(), [false, true, true]);
    warm().await;
    store.set_grant(&actor, &read(group("/ml/b"))).await.unwrap();
    assert_eq!(known(), [true, false, true]);
    warm().await;
    store.set_grant(&actor, &read(group("/ml/**"))).await.unwrap();
    assert_eq!(known(), [false, false, true]);
    warm().await;
    store.delete_grant(&actor, &group("/ml/**"), ResourceKind::Experiment, &read(group("")).selector).await.unwrap();
    assert_eq!(known(), [false, false, true]);
    warm().await;
    store.set_grant(&actor, &read(Subject::Role(role.id))).await.unwrap();
    assert_eq!(known(), [true, true, false]);
    warm().await;
    store.create_user(&actor, "dan", None, false).await.unwrap();
    store.set_grant(&actor, &read(group("/other"))).await.unwrap();
    assert_eq!(known(), [true, true, true]);
    store.delete_role(&actor, role.id).await.unwrap();
    assert_eq!(known(), [true, true, false]);
}

/// Everything that decides what a caller may do.
fn facts(identity: &Identity) -> (String, Arc<crate::authz::GrantSet>) {
    let Identity { user, name, admin, scheme, groups, limits, grants, shadow } = identity;
    assert!(shadow.is_none());
    (format!("{user} {name} {admin} {scheme:?} {groups:?} {limits:?}"), Arc::clone(grants))
}

#[tokio::test]
async fn no_change_of_the_store_leaves_an_identity_that_it_would_load_differently() {
    let world = World::new().await;
    let (store, actor) = (&world.store, actor());
    let role = store.create_role(&actor, "default", "team", None).await.unwrap();
    let (ann, anns) = member(&world, "ann", &["/ml/a".to_owned()]).await;
    let (ben, bens) = member(&world, "ben", &["/ml/b".to_owned()]).await;
    let (secret, token) = world.token(&world.bob, "ci").await;
    let headers = [anns, bens, bearer(&secret), basic("alice", "sesame")];
    // Compares what is remembered with what another authenticator loads.
    let check = async |what: &str| {
        let other = Authn::new(&config(), Arc::new(Store::clone(store)), world.clock.clone());
        for header in &headers {
            let shown = || RawCredentials::authorization(header.as_bytes());
            if let Some(known) = world.authn.recent(shown()) {
                let loaded = other.authenticate(shown(), HERE).await;
                assert_eq!(Some(facts(&known)), loaded.ok().map(|it| facts(&it)), "after {what}");
            }
            let _ = world.ask(header, HERE).await;
        }
    };
    check("nothing").await;
    let (kind, exact) = (ResourceKind::Experiment, Selector::Exact("12".to_owned()));
    let groups = ["/ml/a".to_owned(), "/new".to_owned()];
    let (subjects, name) = ([Subject::User(ann.id), Subject::Group("/ml/a".to_owned()), Subject::Role(role.id)], "m");
    store.assign_role(&actor, ben.id, role.id).await.unwrap();
    check("assign_role").await;
    for subject in subjects {
        store.create_grant(&actor, &grant_to(subject.clone(), Permission::Read)).await.unwrap();
        check("create_grant").await;
        store.update_grant(&actor, &grant_to(subject.clone(), Permission::Edit)).await.unwrap();
        check("update_grant").await;
        store.set_grant(&actor, &grant_to(subject.clone(), Permission::Manage)).await.unwrap();
        check("set_grant").await;
        store.delete_grant(&actor, &subject, kind, &exact).await.unwrap();
        check("delete_grant").await;
        store.create_grant(&actor, &grant_to(subject, Permission::Read)).await.unwrap();
        check("create_grant").await;
    }
    store.date_grants(kind, "12", 5).await.unwrap();
    store.date_grants(kind, "12", 6).await.unwrap();
    check("date_grants").await;
    let model = ResourceKind::RegisteredModel;
    let create = crate::authz::Mutation::Create { kind: model, name: name.to_owned() };
    for user in [ann.id, ben.id] {
        world.clock.advance(Duration::from_millis(5));
        let intent = store.begin(&create, user, &[]).await.unwrap();
        store.finish_create(&actor, intent, model, name, user, &[]).await.unwrap();
        check("finish_create").await;
    }
    let intent = store.begin(&create, ann.id, &[]).await.unwrap();
    store.finish_rename(&actor, intent, model, name, "n").await.unwrap();
    check("finish_rename").await;
    let intent = store.begin(&create, ann.id, &[]).await.unwrap();
    store.finish_drop(&actor, intent, model, "n").await.unwrap();
    check("finish_drop").await;
    store.own(&actor, ResourceKind::Job, "j", ann.id).await.unwrap();
    check("own").await;
    store.update_role(&actor, role.id, Some("crew"), None).await.unwrap();
    check("update_role").await;
    store.unassign_role(&actor, ben.id, role.id).await.unwrap();
    check("unassign_role").await;
    store.assign_role(&actor, ben.id, role.id).await.unwrap();
    check("assign_role").await;
    store.delete_role(&actor, role.id).await.unwrap();
    check("delete_role").await;
    store.meet(&actor, seen("ann", &groups), store::Occasion::Refresh).await.unwrap();
    check("meet").await;
    world.clock.advance(Duration::from_secs(1));
    store.follow(&actor, &ben, seen("ben", &groups), world.clock.now()).await.unwrap();
    check("follow").await;
    store.suspend(&actor, ann.id, "logout").await.unwrap();
    check("suspend").await;
    let ben = store.user(ben.id).await.unwrap().unwrap();
    store.disallow(&actor, &ben, world.clock.now(), "disabled").await.unwrap();
    check("disallow").await;
    // A user of the first provider takes the name of another one.
    let other = store::Seen { issuer: "https://first.example", ..seen("ann", &[]) };
    store.meet(&actor, seen("ann", &groups), store::Occasion::SignIn).await.unwrap();
    check("meet").await;
    store.meet(&actor, other, store::Occasion::SignIn).await.unwrap();
    check("displace").await;
    store.set_admin(&actor, world.alice.id, true).await.unwrap();
    check("set_admin").await;
    store.rotate_token(&actor, token.id, AccessToken::generate().hash(), START.plus(DAY)).await.unwrap();
    check("rotate_token").await;
    let hash = world.authn.hash_password("tahini".into()).await.unwrap();
    store.set_password(&actor, world.alice.id, &hash, AccessTokens::Revoke).await.unwrap();
    check("set_password").await;
    store.delete_user(&actor, ann.id).await.unwrap();
    check("delete_user").await;
}

#[tokio::test]
async fn without_news_of_the_store_nothing_is_decided_from_memory_for_longer_than_allowed() {
    let world = World::new().await;
    let authn = Authn::new(&config(), Arc::clone(&world.store), world.clock.clone());
    let authn = authn.with_max_staleness(Duration::from_secs(30));
    let (secret, _) = world.token(&world.bob, "ci").await;
    let header = bearer(&secret);
    let shown = || RawCredentials::authorization(header.as_bytes());
    authn.follow_store().await;
    authn.authenticate(shown(), HERE).await.unwrap();
    world.clock.advance(Duration::from_secs(30));
    assert!(authn.recent(shown()).is_some());
    world.clock.advance(Duration::from_secs(1));
    assert!(authn.recent(shown()).is_none(), "the last answer of the store is too old");
    authn.follow_store().await;
    assert!(authn.recent(shown()).is_some(), "the store was asked, and nothing has changed");
    world.store.close().await;
    world.clock.advance(Duration::from_secs(20));
    authn.follow_store().await;
    assert!(authn.recent(shown()).is_some());
    world.clock.advance(Duration::from_secs(11));
    authn.follow_store().await;
    assert!(authn.recent(shown()).is_none());
    let refused = authn.authenticate(shown(), HERE).await;
    assert!(matches!(refused, Err(Error::Store(store::Error::Unavailable(_)))), "{refused:?}");
}
