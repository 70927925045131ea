//! What people, programs and attackers see. The clock stands still unless a test moves it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::task::JoinSet;

use super::*;
use crate::authz::{Grant, Permission, ResourceKind, Selector, Subject, TokenId};
use crate::store::{AccessTokens, Actor, NewSession, NewToken, Token};

const START: Timestamp = Timestamp(1_700_000_000_000);
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 9));
const TTL: Duration = Duration::from_mins(5);
const WINDOW: Duration = Duration::from_mins(15);
const DAY: Duration = Duration::from_hours(24);
const PER_ADDRESS: u32 = 6;
const PER_ACCOUNT: u32 = 3;

/// An `Authn` before a store with `alice` (password `sesame`) and `bob` (no password).
struct World {
    authn: Arc<Authn>,
    store: Arc<Store>,
    clock: Clock,
    alice: User,
    bob: User,
}

impl World {
    async fn new() -> Self {
        let clock = Clock::manual(START);
        let store = Arc::new(Store::open("sqlite::memory:", clock.clone()).await.unwrap());
        Self::before(store, clock).await
    }

    async fn before(store: Arc<Store>, clock: Clock) -> Self {
        let sesame = PasswordHash::make(&"sesame".into());
        let alice = store.create_user(&actor(), "alice", Some(&sesame), false).await.unwrap();
        let bob = store.create_user(&actor(), "bob", None, true).await.unwrap();
        let authn = Arc::new(Authn::new(&config(), Arc::clone(&store), clock.clone()));
        Self { authn, store, clock, alice, bob }
    }

    async fn token(&self, owner: &User, name: &str) -> (AccessToken, Token) {
        let (secret, limits) = (AccessToken::generate(), Limits::parse(["read-only"]).unwrap());
        let (user, hash, expires) = (owner.id, secret.hash(), self.clock.now().plus(DAY));
        let token = NewToken { user, name, hash, limits: &limits, expires };
        (secret, self.store.create_token(&actor(), token).await.unwrap())
    }

    async fn ask(&self, header: &str, address: IpAddr) -> Result<Arc<Identity>, Error> {
        self.authn.authenticate(Shown::authorization(header.as_bytes()), address).await
    }

    /// What becomes of it, in one word.
    async fn answer(&self, header: &str, address: IpAddr) -> String {
        match self.ask(header, address).await {
            Ok(identity) => identity.name.to_string(),
            Err(Error::Failed(reason)) => reason.to_string(),
            Err(Error::TooManyAttempts { .. }) => "too_many".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// As [`World::answer`], and fails when the number of passwords hashed meanwhile is another.
    async fn answer_after(&self, hashes: u64, header: &str, address: IpAddr) -> String {
        let before = self.authn.hashing.runs();
        let answer = self.answer(header, address).await;
        assert_eq!(self.authn.hashing.runs() - before, hashes, "hashes for the answer {answer}");
        answer
    }

    fn recent(&self, header: &str) -> Option<String> {
        self.authn.recent(Shown::authorization(header.as_bytes())).map(|identity| identity.name.to_string())
    }
}

pub(super) fn config() -> config::Authn {
    config::Authn {
        token_max_days: 365,
        cache_ttl: TTL,
        cache_entries: 1000,
        hash_concurrency: 2,
        hash_queue: 100,
        guesses_per_address: PER_ADDRESS,
        guesses_per_account: PER_ACCOUNT,
        guess_window: WINDOW,
        password_form: false,
        person_max_age: None,
        signup: false,
    }
}

fn actor() -> Actor {
    Actor { name: "root".to_owned(), token: None, address: None }
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

/// An address from which no request has come.
fn new_address(number: u32) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0001 + number))
}

fn bearer(token: &AccessToken) -> String {
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
    assert!(matches!(world.authn.authenticate(Shown::default(), HERE).await, Err(Error::Missing)));
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
    world.authn.forget(world.bob.id);
    assert_eq!(world.recent(&bearer(&secret)), None);
    assert_eq!(world.answer(&bearer(&secret), HERE).await, "unknown_token");
    assert_eq!(world.answer(&bearer(&rotated), HERE).await, "bob");
    world.store.revoke_token(&actor(), token.id).await.unwrap();
    world.authn.forget(world.bob.id);
    assert_eq!(world.recent(&bearer(&rotated)), None);
    assert_eq!(world.answer(&bearer(&rotated), HERE).await, "revoked_token");
}

#[tokio::test]
async fn a_changed_password_ends_the_old_one_at_once() {
    let world = World::new().await;
    assert_eq!(world.answer_after(1, &basic("alice", "sesame"), HERE).await, "alice");
    let hash = world.authn.hash_password("tahini".into()).await.unwrap();
    world.store.set_password(&actor(), world.alice.id, &hash, AccessTokens::Keep).await.unwrap();
    world.authn.forget(world.alice.id);
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
    world.authn.forget(world.alice.id);
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
    world.authn.forget(world.alice.id);
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
        requests
            .spawn(async move { authn.authenticate(Shown::authorization(header.as_bytes()), HERE).await.map(drop) });
    }
    assert!(requests.join_all().await.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(world.authn.hashing.runs(), 1);
    assert_eq!(world.authn.flights.count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn an_address_is_refused_at_an_account_after_so_many_wrong_passwords_until_the_window_ends() {
    let world = World::new().await;
    for guess in 0..PER_ACCOUNT {
        assert_eq!(world.answer(&basic("alice", &format!("guess {guess}")), HERE).await, "wrong_password");
        world.clock.advance(Duration::from_mins(1));
    }
    assert_eq!(world.answer_after(0, &basic("alice", "sesame"), HERE).await, "too_many", "also the right one");
    let Err(Error::TooManyAttempts { retry_after }) = world.ask(&basic("alice", "x"), HERE).await else { panic!() };
    assert_eq!(retry_after, WINDOW - Duration::from_mins(3));
    assert_eq!(world.answer(&basic("alice", "sesame"), THERE).await, "alice", "the owner elsewhere is not locked out");
    assert_eq!(world.answer(&basic("bob", "x"), HERE).await, "wrong_password", "others are not affected");
    world.clock.advance(retry_after);
    assert_eq!(world.answer(&basic("alice", "sesame"), HERE).await, "alice");
}

#[tokio::test]
async fn an_account_that_is_guessed_from_everywhere_is_slowed_down_whether_it_exists_or_not() {
    let world = World::new().await;
    for name in ["nobody", "alice"] {
        let wrong = if name == "alice" { "wrong_password" } else { "unknown_user" };
        let mut guess = 0;
        let mut next = async || {
            guess += 1;
            let address = IpAddr::V4(std::net::Ipv4Addr::from_bits(guess));
            world.ask(&basic(name, &format!("guess {guess}")), address).await
        };
        for _ in 0..=PER_ACCOUNT {
            assert!(matches!(next().await, Err(Error::Failed(reason)) if reason.as_str() == wrong), "{name}");
        }
        let Err(Error::TooManyAttempts { retry_after }) = next().await else { panic!("{name}") };
        assert_eq!(retry_after, WINDOW / 100, "{name}");
        world.clock.advance(retry_after);
        assert!(matches!(next().await, Err(Error::Failed(_))), "{name}: one more");
        assert!(matches!(next().await, Err(Error::TooManyAttempts { .. })), "{name}: and no other");
    }
}

#[tokio::test]
async fn an_account_that_is_slowed_down_lets_its_owners_addresses_and_sessions_through() {
    let world = World::new().await;
    let elsewhere = |number: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(number));
    assert_eq!(world.answer(&basic("alice", "sesame"), HERE).await, "alice");
    world.authn.verified.invalidate_all();
    world.authn.forget_all();
    for number in 1..=PER_ACCOUNT + 1 {
        world.answer(&basic("alice", &format!("guess {number}")), elsewhere(number)).await;
    }
    assert_eq!(world.answer(&basic("alice", "sesame"), THERE).await, "too_many", "a stranger's turn is used up");
    assert_eq!(world.answer(&basic("alice", "sesame"), HERE).await, "alice", "it was right from here before");
    world.authn.verified.invalidate_all();
    world.authn.forget_all();
    let session = NewSession {
        hash: crate::crypto::SessionSecret::generate().hash(),
        user: world.alice.id,
        provider: None,
        issuer: None,
        subject: None,
        sid: None,
        tokens: String::new(),
        expires: world.clock.now().plus(DAY),
        refresh_at: None,
        address: THERE.to_string(),
        agent: String::new(),
    };
    world.store.create_session(&actor(), &session, 50).await.unwrap();
    assert_eq!(world.answer(&basic("alice", "sesame"), elsewhere(77)).await, "too_many");
    assert_eq!(world.answer(&basic("alice", "sesame"), THERE).await, "alice", "a session of the account is there");
    assert!(
        world.authn.verify_password(&world.alice, "sesame".into(), elsewhere(78)).await.unwrap(),
        "signed in already"
    );
}

#[tokio::test]
async fn a_closed_account_still_takes_its_tokens_and_a_password_in_use() {
    let world = World::new().await;
    let (secret, _) = world.token(&world.alice, "ci").await;
    world.ask(&basic("alice", "sesame"), HERE).await.unwrap();
    for guess in 0..=PER_ACCOUNT {
        world.answer(&basic("alice", &format!("guess {guess}")), THERE).await;
    }
    assert_eq!(world.answer(&basic("alice", "guess"), THERE).await, "too_many");
    world.authn.forget_all();
    assert_eq!(world.answer_after(0, &basic("alice", "sesame"), HERE).await, "alice");
    assert_eq!(world.answer(&basic("alice", secret.reveal()), THERE).await, "alice");
    assert_eq!(world.answer(&bearer(&secret), THERE).await, "alice");
}

#[tokio::test]
async fn an_address_is_refused_after_so_many_failures_but_not_its_neighbour_nor_its_tokens() {
    let world = World::new().await;
    let (secret, _) = world.token(&world.bob, "ci").await;
    for guess in 0..PER_ADDRESS {
        assert_eq!(world.answer(&basic(&format!("user {guess}"), "123456"), THERE).await, "unknown_user");
    }
    assert_eq!(world.answer_after(0, &basic("alice", "sesame"), THERE).await, "too_many");
    assert_eq!(world.answer(&bearer(&AccessToken::generate()), THERE).await, "too_many");
    assert_eq!(world.answer(&bearer(&secret), THERE).await, "bob");
    assert_eq!(world.answer(&basic("alice", "sesame"), HERE).await, "alice");
    let mapped: IpAddr = "::ffff:198.51.100.9".parse().unwrap();
    assert_eq!(world.answer(&basic("alice", "x"), mapped).await, "too_many", "the same address in other clothes");
    world.clock.advance(WINDOW);
    assert_eq!(world.answer(&basic("alice", "sesame"), THERE).await, "alice");
}

#[tokio::test]
async fn somebody_over_the_limit_does_not_learn_a_password_from_its_owner_being_signed_in() {
    let world = World::new().await;
    let right = basic("alice", "sesame");
    world.ask(&right, HERE).await.unwrap();
    for guess in 0..PER_ADDRESS {
        world.answer(&basic(&format!("user {guess}"), "123456"), THERE).await;
    }
    assert_eq!(world.recent(&right), None, "it is not known from where this comes");
    assert_eq!(world.answer(&right, THERE).await, "too_many");
    assert_eq!(world.answer_after(0, &right, HERE).await, "alice");
    world.clock.advance(WINDOW);
    world.ask(&right, HERE).await.unwrap();
    assert_eq!(world.recent(&right).as_deref(), Some("alice"));
}

#[tokio::test]
async fn an_address_over_an_accounts_limit_does_not_learn_its_password_from_its_owner_being_signed_in() {
    let world = World::new().await;
    let right = basic("alice", "sesame");
    for guess in 0..=PER_ACCOUNT {
        world.ask(&right, HERE).await.unwrap();
        world.answer(&basic("alice", &format!("guess {guess}")), THERE).await;
    }
    world.ask(&right, HERE).await.unwrap();
    assert_eq!(world.recent(&right), None, "it is not known from where this comes");
    assert_eq!(world.answer_after(0, &right, THERE).await, "too_many");
    world.authn.forget_all();
    assert_eq!(world.answer_after(0, &right, THERE).await, "too_many", "of passwords verified before, neither");
    assert_eq!(world.authn.verify_password(&world.alice, "sesame".into(), THERE).await.ok(), None);
    assert_eq!(world.answer_after(0, &right, HERE).await, "alice");
    world.clock.advance(WINDOW);
    assert_eq!(world.answer(&right, THERE).await, "alice");
}

#[tokio::test]
async fn at_an_account_that_is_slowed_down_a_right_password_is_refused_as_a_wrong_one_from_every_new_address() {
    let world = World::new().await;
    let right = basic("alice", "sesame");
    world.ask(&right, HERE).await.unwrap();
    for guess in 0..=PER_ACCOUNT {
        world.answer(&basic("alice", &format!("guess {guess}")), THERE).await;
    }
    assert_eq!(world.recent(&right), None, "it is not known from where this comes");
    let sign_in =
        async |password: &str, address| world.authn.sign_in("alice", password.into(), address).await.map(drop);
    // The turn of strangers, for now.
    assert_eq!(world.answer(&basic("alice", "guess"), new_address(0)).await, "wrong_password");
    for number in 1..PER_ADDRESS * 3 {
        let address = new_address(number);
        assert_eq!(world.answer_after(0, &right, address).await, "too_many");
        assert!(matches!(sign_in("sesame", address).await, Err(Error::TooManyAttempts { .. })));
        assert_eq!(world.answer_after(0, &basic("alice", "guess"), address).await, "too_many");
        assert!(matches!(sign_in("guess", address).await, Err(Error::TooManyAttempts { .. })));
        assert_eq!(world.answer_after(0, &right, address).await, "too_many");
        assert_eq!(world.answer_after(0, &right, HERE).await, "alice", "the owner works on");
    }
    world.clock.advance(WINDOW / 100);
    assert_eq!(world.answer_after(1, &right, new_address(1)).await, "alice", "a turn of strangers, paid with a hash");
    assert_eq!(world.answer_after(0, &right, new_address(1)).await, "alice", "an address of the owner's now");
}

#[tokio::test]
async fn while_nothing_can_be_hashed_a_right_password_is_refused_as_a_wrong_one() {
    let world = World::new().await;
    let config = config::Authn { hash_concurrency: 1, hash_queue: 0, ..config() };
    let authn = Authn::new(&config, Arc::clone(&world.store), world.clock.clone());
    let right = basic("alice", "sesame");
    let ask = async |header: &str, address| {
        let shown = Shown::authorization(header.as_bytes());
        if authn.recent(shown).is_some() { Ok(()) } else { authn.authenticate(shown, address).await.map(drop) }
    };
    ask(&right, HERE).await.unwrap();
    let held = authn.hashing.hold().await;
    let first = authn.hash_password("x".into());
    tokio::pin!(first);
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut first).await.is_err());
    assert!(matches!(ask(&basic("alice", "x"), THERE).await, Err(Error::Busy)));
    for address in [THERE, new_address(1), new_address(2)] {
        assert!(matches!(ask(&right, address).await, Err(Error::Busy)), "{address}");
    }
    ask(&right, HERE).await.expect("the owner's address was refused nothing");
    assert!(matches!(ask(&basic("alice", "x"), HERE).await, Err(Error::Busy)));
    assert!(matches!(ask(&right, HERE).await, Err(Error::Busy)), "of an address that was refused, neither");
    drop(held);
    assert!(first.await.unwrap().matches(&"x".into()));
    ask(&right, HERE).await.unwrap();
    let runs = authn.hashing.runs();
    ask(&right, HERE).await.unwrap();
    assert_eq!(authn.hashing.runs(), runs, "proven again");
}

#[tokio::test]
async fn who_hangs_up_before_the_hash_does_not_learn_a_right_password_by_its_speed() {
    let world = World::new().await;
    let right = basic("alice", "sesame");
    world.ask(&right, HERE).await.unwrap();
    let held = world.authn.hashing.hold().await;
    let hurried = async |header: &str, address| {
        if world.recent(header).is_some() {
            return true;
        }
        tokio::time::timeout(Duration::from_millis(5), world.ask(header, address)).await.is_ok()
    };
    assert!(!hurried(&basic("alice", "guess"), THERE).await);
    assert!(!hurried(&right, THERE).await);
    assert!(!hurried(&right, new_address(1)).await);
    assert!(hurried(&right, HERE).await, "the owner's address did nothing of the kind");
    assert!(!hurried(&basic("alice", "guess"), HERE).await);
    assert!(!hurried(&right, HERE).await);
    drop(held);
    assert_eq!(world.answer_after(1, &right, HERE).await, "alice");
    assert_eq!(world.answer_after(0, &right, HERE).await, "alice");
}

#[tokio::test]
async fn who_waits_for_guesses_under_way_does_not_learn_a_right_password_by_its_speed() {
    let world = World::new().await;
    let right = basic("alice", "sesame");
    world.ask(&right, HERE).await.unwrap();
    let held = world.authn.hashing.hold().await;
    let mut guesses = JoinSet::new();
    for guess in 0..=PER_ACCOUNT {
        let (authn, header) = (Arc::clone(&world.authn), basic("alice", &format!("guess {guess}")));
        guesses.spawn(async move { authn.authenticate(Shown::authorization(header.as_bytes()), HERE).await.map(drop) });
    }
    while world.recent(&right).is_some() {
        tokio::task::yield_now().await;
    }
    assert!(tokio::time::timeout(Duration::from_millis(5), world.ask(&right, HERE)).await.is_err());
    drop(held);
    let answers = guesses.join_all().await;
    assert!(answers.iter().any(|answer| matches!(answer, Err(Error::TooManyAttempts { .. }))), "{answers:?}");
    assert_eq!(world.answer_after(0, &right, HERE).await, "too_many");
}

#[tokio::test]
async fn an_ipv6_subscriber_is_one_address() {
    let world = World::new().await;
    for guess in 0..PER_ADDRESS {
        let address = format!("2001:db8:1:2::{guess}").parse().unwrap();
        world.answer(&basic(&format!("user {guess}"), "123456"), address).await;
    }
    assert_eq!(world.answer(&basic("alice", "x"), "2001:db8:1:2:ffff::1".parse().unwrap()).await, "too_many");
    assert_eq!(world.answer(&basic("alice", "x"), "2001:db8:1:3::1".parse().unwrap()).await, "wrong_password");
}

#[tokio::test]
async fn a_right_password_clears_the_failures_at_the_account_and_not_the_addresses() {
    let world = World::new().await;
    for round in 0..3 {
        for guess in 0..PER_ACCOUNT - 1 {
            assert_eq!(world.answer(&basic("alice", &format!("{round} {guess}")), HERE).await, "wrong_password");
        }
        world.clock.advance(Duration::from_millis(1));
        // Verified anew each time, as after a restart.
        world.authn.forget_all();
        world.authn.verified.invalidate_all();
        let answer = world.answer(&basic("alice", "sesame"), HERE).await;
        assert_eq!(answer, if round < 2 { "alice" } else { "too_many" }, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_guesses_do_not_exceed_the_limit() {
    let world = World::new().await;
    let mut requests = JoinSet::new();
    for guess in 0..60 {
        let (authn, header) = (Arc::clone(&world.authn), basic("alice", &format!("guess {guess}")));
        let address = IpAddr::V4(std::net::Ipv4Addr::from_bits(guess / 2 + 1));
        requests
            .spawn(async move { authn.authenticate(Shown::authorization(header.as_bytes()), address).await.map(drop) });
    }
    let answers = requests.join_all().await;
    let wrong = answers.iter().filter(|answer| matches!(answer, Err(Error::Failed(_)))).count();
    let refused = answers.iter().filter(|answer| matches!(answer, Err(Error::TooManyAttempts { .. }))).count();
    // The clock stands still, so one stranger has a turn beyond the limit.
    let granted = PER_ACCOUNT as usize + 1;
    assert_eq!((wrong, refused), (granted, 60 - granted));
    assert_eq!(world.authn.hashing.runs(), granted as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_people_behind_one_address_sign_in_together() {
    let world = World::new().await;
    let sesame = PasswordHash::make(&"sesame".into());
    let mut requests = JoinSet::new();
    for number in 0..PER_ADDRESS * 4 {
        let name = format!("user {number}");
        world.store.create_user(&actor(), &name, Some(&sesame), false).await.unwrap();
        let (authn, header) = (Arc::clone(&world.authn), basic(&name, "sesame"));
        requests
            .spawn(async move { authn.authenticate(Shown::authorization(header.as_bytes()), HERE).await.map(drop) });
    }
    for answer in requests.join_all().await {
        answer.unwrap();
    }
}

#[tokio::test]
async fn what_is_no_guess_does_not_close_an_address() {
    let world = World::new().await;
    let (secret, token) = world.token(&world.bob, "ci").await;
    world.store.revoke_token(&actor(), token.id).await.unwrap();
    for _ in 0..PER_ADDRESS * 2 {
        assert_eq!(world.answer(&bearer(&secret), HERE).await, "revoked_token");
        assert_eq!(world.answer("Bearer eyJhbGciOi", HERE).await, "unknown_scheme");
    }
    assert_eq!(world.answer(&basic("alice", "sesame"), HERE).await, "alice");
}

#[tokio::test]
async fn a_full_queue_is_busy_and_uses_no_guess() {
    let world = World::new().await;
    let config = config::Authn { hash_concurrency: 1, hash_queue: 0, ..config() };
    let authn = Authn::new(&config, Arc::clone(&world.store), world.clock.clone());
    let held = authn.hashing.hold().await;
    let first = authn.hash_password("x".into());
    tokio::pin!(first);
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut first).await.is_err());
    for _ in 0..PER_ADDRESS * 2 {
        let answer = authn.authenticate(Shown::authorization(basic("alice", "x").as_bytes()), HERE).await;
        assert!(matches!(answer, Err(Error::Busy)), "{answer:?}");
    }
    drop(held);
    assert!(first.await.unwrap().matches(&"x".into()));
    assert!(authn.authenticate(Shown::authorization(basic("alice", "sesame").as_bytes()), HERE).await.is_ok());
}

#[tokio::test]
async fn hanging_up_before_the_hash_leaves_nothing_and_after_it_uses_the_guess() {
    let world = World::new().await;
    let held = world.authn.hashing.hold().await;
    for guess in 0..PER_ADDRESS * 2 {
        let header = basic("alice", &format!("guess {guess}"));
        let asking = world.ask(&header, HERE);
        assert!(tokio::time::timeout(Duration::from_millis(5), asking).await.is_err());
    }
    assert_eq!(world.authn.flights.count(), 0);
    drop(held);

    for guess in 0..PER_ACCOUNT {
        let header = basic("alice", &format!("guess {guess}"));
        let asking = world.ask(&header, HERE);
        tokio::pin!(asking);
        let runs = world.authn.hashing.runs();
        while world.authn.hashing.runs() == runs {
            assert!(tokio::time::timeout(Duration::from_micros(10), &mut asking).await.is_err());
        }
    }
    assert_eq!(world.answer(&basic("alice", "sesame"), HERE).await, "too_many");
}

#[tokio::test]
async fn the_last_use_of_a_token_is_handed_over_once_a_minute() {
    let world = World::new().await;
    let (secret, token) = world.token(&world.bob, "ci").await;
    let header = bearer(&secret);
    let last_used = async || world.store.token(token.id).await.unwrap().unwrap().last_used;
    world.ask(&header, HERE).await.unwrap();
    world.authn.refresh().await;
    assert_eq!(last_used().await, Some(START));
    for (seconds, expected) in [(30, 0), (29, 0), (1, 60), (30, 60), (40, 130)] {
        world.clock.advance(Duration::from_secs(seconds));
        if world.recent(&header).is_none() {
            world.ask(&header, HERE).await.unwrap();
        }
        world.authn.refresh().await;
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
    world.authn.refresh().await;
    world.ask(&bearer(&secret), HERE).await.unwrap();
    world.authn.refresh().await;
    assert!(world.recent(&bearer(&secret)).is_some(), "nothing changed, nothing forgotten");
    other.revoke_token(&actor(), token.id).await.unwrap();
    world.authn.refresh().await;
    assert_eq!(world.recent(&bearer(&secret)), None);
    assert_eq!(world.answer(&bearer(&secret), HERE).await, "revoked_token");
}

#[tokio::test]
async fn refreshing_without_a_store_loses_nothing() {
    let world = World::new().await;
    let (secret, _) = world.token(&world.bob, "ci").await;
    world.authn.refresh().await;
    world.ask(&bearer(&secret), HERE).await.unwrap();
    world.store.close().await;
    world.authn.refresh().await;
    world.authn.refresh().await;
    assert!(world.recent(&bearer(&secret)).is_some());
    assert_eq!(world.authn.identities.take_used().len(), 1, "to be handed over later");
}

#[tokio::test]
async fn a_signed_in_person_proving_the_password_again_is_counted_too() {
    let world = World::new().await;
    let verify = async |password: &str| world.authn.verify_password(&world.alice, password.into(), HERE).await;
    assert!(verify("sesame").await.unwrap());
    for guess in 0..PER_ACCOUNT {
        assert!(!verify(&format!("guess {guess}")).await.unwrap());
    }
    assert!(matches!(verify("guess").await, Err(Error::TooManyAttempts { .. })));
    assert!(matches!(verify("sesame").await, Err(Error::TooManyAttempts { .. })), "right and wrong are refused alike");
}

#[tokio::test]
async fn no_secret_shows_in_debug_or_errors() {
    let world = World::new().await;
    world.ask(&basic("alice", "sesame"), HERE).await.unwrap();
    let error = world.ask(&basic("alice", "open-up"), HERE).await.unwrap_err();
    let header = basic("alice", "open-up");
    let request = Shown { authorization: Some(header.as_bytes()), session: Some("open-up") };
    let shown = format!("{:?} {error:?} {error} {request:?}", world.authn);
    assert!(!shown.contains(&format!("{:?}", header.as_bytes())), "{shown}");
    assert!(!shown.contains("sesame") && !shown.contains("open-up"), "{shown}");
}
