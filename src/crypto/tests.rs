//! What must hold of every secret we make.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use secrecy::{ExposeSecret as _, SecretString};

use super::*;

#[test]
fn a_token_is_recognisable_and_read_back() {
    let token = AccessToken::generate();
    assert_eq!(token.reveal().len(), 5 + 64 + 8);
    assert!(AccessToken::looks_like(token.reveal()));
    let read = AccessToken::parse(token.reveal()).expect("our own token");
    assert_eq!(read.hash(), token.hash());
    assert_ne!(AccessToken::generate().hash(), token.hash());
}

#[test]
fn a_token_in_capitals_or_with_anything_around_it_is_refused() {
    let token = AccessToken::generate();
    let text = token.reveal();
    for other in [
        text.to_uppercase(),
        text.replace("mlap_", "MLAP_"),
        format!("{text} "),
        format!(" {text}"),
        format!("{text}\0"),
        text.replace("mlap_", "mlap__"),
        String::new(),
        "mlap_".to_owned(),
        format!("mlap_{}", "é".repeat(36)),
    ] {
        assert!(AccessToken::parse(&other).is_none(), "{other}");
    }
}

#[test]
fn no_secret_shows_in_debug() {
    let token = AccessToken::generate();
    let hash = PasswordHash("$argon2id$secret".to_owned());
    let shown = format!("{token:?} {:?} {hash:?} {:?} {:?}", token.hash(), CacheKeys::new(), Sealer::new(&[7; 32]));
    assert!(!shown.contains(token.reveal().trim_start_matches("mlap_")), "{shown}");
    assert!(!shown.contains("secret") && !shown.contains("argon2"), "{shown}");
    assert!(!shown.contains("7, 7"), "{shown}");
}

#[test]
fn a_password_is_stored_as_argon2id_with_the_parameters_of_owasp() {
    let hash = PasswordHash::make(&"correct horse".into());
    assert!(hash.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.0);
    assert!(hash.matches(&"correct horse".into()));
    assert!(!hash.matches(&"correct horsf".into()));
    assert!(!hash.matches(&"".into()));
    assert_ne!(PasswordHash::make(&"correct horse".into()), hash, "each has a salt of its own");
}

#[test]
fn a_stored_hash_that_costs_too_much_or_is_no_argon2id_is_refused_without_trying() {
    let tail = "$c2FsdHNhbHRzYWx0c2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for head in [
        "$argon2id$v=19$m=4194304,t=2,p=1",
        "$argon2id$v=19$m=19456,t=2000000,p=1",
        "$argon2id$v=19$m=19456,t=2,p=64",
        "$argon2i$v=19$m=19456,t=2,p=1",
        "$argon2d$v=19$m=19456,t=2,p=1",
        "$scrypt$ln=15,r=8,p=1",
    ] {
        assert!(!PasswordHash(format!("{head}{tail}")).matches(&"x".into()), "{head}");
    }
    for text in ["", "x", "$argon2id$", "plain text"] {
        assert!(!PasswordHash(text.to_owned()).matches(&text.into()), "{text}");
    }
}

#[test]
fn the_decoy_costs_what_a_real_hash_costs_and_matches_nothing() {
    let real = PasswordHash::make(&"a".into());
    let shape = |hash: &PasswordHash| hash.0.split('$').map(str::len).collect::<Vec<_>>();
    assert_eq!(shape(PasswordHash::decoy()), shape(&real));
    assert_eq!(PasswordHash::decoy().0.split('$').nth(3), real.0.split('$').nth(3));
    assert!(!PasswordHash::decoy().matches(&"a".into()));
    assert!(!PasswordHash::decoy().matches(&"".into()));
}

#[test]
fn the_first_password_is_long_and_random() {
    let password: SecretString = random_password();
    assert_eq!(password.expose_secret().len(), 24);
    assert!(password.expose_secret().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    assert_ne!(password.expose_secret(), random_password().expose_secret());
}

#[test]
fn a_cache_key_depends_on_process_purpose_and_the_borders_between_parts() {
    let keys = CacheKeys::new();
    assert_eq!(keys.key("a", b"x"), keys.key("a", b"x"));
    assert_ne!(keys.key("a", b"x"), CacheKeys::new().key("a", b"x"));
    assert_ne!(keys.key("a", b"x"), keys.key("b", b"x"));
    assert_ne!(keys.key("a", b"bx"), keys.key("ab", b"x"));
    assert_ne!(keys.key_of("a", &[b"xy", b"z"]), keys.key_of("a", &[b"x", b"yz"]));
    assert_ne!(keys.key_of("a", &[b"x"]), keys.key_of("a", &[b"x", b""]));
}

#[test]
fn a_sealed_text_opens_only_where_and_for_whom_it_was_made() {
    let sealer = Sealer::new(&[1; 32]);
    let sealed = sealer.seal("experiments", 7, b"page 2");
    assert_eq!(sealer.open("experiments", 7, &sealed).as_deref(), Some(b"page 2".as_slice()));
    assert_eq!(sealer.open("experiments", 8, &sealed), None);
    assert_eq!(sealer.open("models", 7, &sealed), None);
    assert_eq!(Sealer::new(&[2; 32]).open("experiments", 7, &sealed), None);
    assert_ne!(sealer.seal("experiments", 7, b"page 2"), sealed, "a nonce is never used twice");
}

#[test]
fn the_first_key_of_a_ring_seals_and_the_others_still_open() {
    let (old, new) = (SecretString::from(STANDARD.encode([1; 32])), SecretString::from(STANDARD.encode([2; 32])));
    let before = KeyRing::parse([("2025", &old)]).unwrap();
    let both = KeyRing::parse([("2026", &new), ("2025", &old)]).unwrap();
    let after = KeyRing::parse([("2026", &new)]).unwrap();
    let sealed = before.seal("tokens", 7, b"refresh");
    assert!(sealed.starts_with("2025."), "{sealed}");
    assert_eq!(both.open("tokens", 7, &sealed).as_deref(), Some(b"refresh".as_slice()));
    assert_eq!(after.open("tokens", 7, &sealed), None, "its key is gone");
    let sealed = both.seal("tokens", 7, b"refresh");
    assert!(sealed.starts_with("2026."), "{sealed}");
    assert_eq!(after.open("tokens", 7, &sealed).as_deref(), Some(b"refresh".as_slice()));
    assert_eq!(after.open("tokens", 8, &sealed), None);
    let same_key = KeyRing::parse([("2027", &new)]).unwrap();
    assert_eq!(same_key.open("tokens", 7, &sealed.replace("2026.", "2027.")), None, "the name is authenticated");
    assert!(KeyRing::parse([]).is_none());
}

#[test]
fn a_sessions_secret_has_one_spelling_and_one_hash() {
    let secret = SessionSecret::generate();
    assert_eq!(secret.reveal().len(), 43);
    assert_eq!(SessionSecret::parse(secret.reveal()).map(|read| read.hash()), Some(secret.hash()));
    assert_ne!(SessionSecret::generate().hash(), secret.hash());
    for wrong in ["", "short", &format!("{}=", secret.reveal()), &"\u{e9}".repeat(21), &" ".repeat(43)] {
        assert!(SessionSecret::parse(wrong).is_none(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn any_altered_character_makes_a_token_unreadable(at in 0usize..77, other in any::<char>()) {
        let token = AccessToken::generate();
        let altered: String =
            token.reveal().chars().enumerate().map(|(i, c)| if i == at { other } else { c }).collect();
        prop_assume!(altered != token.reveal());
        prop_assert!(AccessToken::parse(&altered).is_none());
    }

    #[test]
    fn a_shortened_or_lengthened_token_is_unreadable(keep in 0usize..77, more in "[0-9a-f]{1,4}") {
        let token = AccessToken::generate();
        prop_assert!(AccessToken::parse(token.reveal().get(..keep).unwrap()).is_none());
        let longer = format!("{}{more}", token.reveal());
        prop_assert!(AccessToken::parse(&longer).is_none());
    }

    #[test]
    fn swapping_two_different_digits_makes_a_token_unreadable(a in 5usize..77, b in 5usize..77) {
        let token = AccessToken::generate();
        let mut digits: Vec<char> = token.reveal().chars().collect();
        prop_assume!(digits[a] != digits[b]);
        digits.swap(a, b);
        prop_assert!(AccessToken::parse(&digits.into_iter().collect::<String>()).is_none());
    }

    #[test]
    fn reading_a_token_never_panics(text in any::<String>()) {
        prop_assert!(AccessToken::parse(&text).is_none());
        let prefixed = format!("mlap_{text}");
        prop_assert!(AccessToken::parse(&prefixed).is_none());
    }

    #[test]
    fn whatever_is_sealed_opens_and_nothing_altered_does(
        plain in prop::collection::vec(any::<u8>(), 0..200),
        owner in any::<i64>(),
        at in any::<prop::sample::Index>(),
        other in "[A-Za-z0-9_-]",
    ) {
        let sealer = Sealer::new(&[3; 32]);
        let sealed = sealer.seal("p", owner, &plain);
        prop_assert!(sealed.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        prop_assert_eq!(sealer.open("p", owner, &sealed), Some(plain));
        let at = at.index(sealed.len());
        let mut altered = sealed.clone();
        altered.replace_range(at..=at, &other);
        prop_assume!(altered != sealed);
        prop_assert_eq!(sealer.open("p", owner, &altered), None);
        prop_assert_eq!(sealer.open("p", owner, sealed.get(..at).unwrap()), None);
    }

    #[test]
    fn opening_never_panics(text in any::<String>()) {
        prop_assert_eq!(Sealer::new(&[3; 32]).open("p", 1, &text), None);
    }
}
