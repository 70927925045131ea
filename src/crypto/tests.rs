use proptest::prelude::*;
use secrecy::SecretString;

use super::*;

#[test]
fn a_token_is_recognised_and_a_typing_error_is_not() {
    let token = AccessToken::generate();
    let text = token.reveal().to_owned();
    assert!(text.starts_with("mlap_") && text.len() == 5 + 64 + 8);
    let again = AccessToken::parse(&text).expect("our own token");
    assert_eq!(again.hash(), token.hash());
    assert_ne!(AccessToken::generate().hash(), token.hash());
    for wrong in [&text[..text.len() - 1], &format!("{text}0"), &text.to_uppercase(), &text[5..], "mlap_", ""] {
        assert!(AccessToken::parse(wrong).is_none());
    }
    assert!(!format!("{token:?} {:?}", token.hash()).contains(&text[5..20]));
}

proptest! {
    #[test]
    fn no_changed_digit_passes_the_checksum(at in 5_usize..77, digit in "[0-9a-f]") {
        let text = AccessToken::generate().reveal().to_owned();
        let mut changed = text.clone();
        changed.replace_range(at..=at, &digit);
        prop_assert_eq!(AccessToken::parse(&changed).is_some(), changed == text);
    }

    #[test]
    fn what_was_sealed_opens_only_where_and_for_whom(plain in proptest::collection::vec(any::<u8>(), 0..40), bit in 0_usize..64) {
        let sealer = Sealer::new(&random());
        let sealed = sealer.seal("experiments", 7, &plain);
        prop_assert_eq!(sealer.open("experiments", 7, &sealed), Some(plain));
        prop_assert_eq!(sealer.open("models", 7, &sealed), None);
        prop_assert_eq!(sealer.open("experiments", 8, &sealed), None);
        prop_assert_eq!(Sealer::new(&random()).open("experiments", 7, &sealed), None);
        let mut bytes = sealed.into_bytes();
        let at = bit % bytes.len();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(bytes).expect("ASCII");
        prop_assert_eq!(sealer.open("experiments", 7, &altered), None);
    }
}

#[test]
fn a_password_matches_its_own_hash_only() {
    let password: SecretString = "correct horse battery".into();
    let hash = PasswordHash::make(&password);
    assert!(hash.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    assert!(hash.matches(&password));
    assert!(!hash.matches(&"correct horse batterY".into()));
    assert_ne!(PasswordHash::make(&password), hash, "a fresh salt each");
    assert!(!PasswordHash("no hash".to_owned()).matches(&password));
}

#[test]
fn a_stored_hash_cannot_ask_for_all_our_memory() {
    let hash = PasswordHash::make(&"correct horse battery".into());
    let greedy = PasswordHash(hash.0.replace("m=19456", "m=4194304"));
    assert!(!greedy.matches(&"correct horse battery".into()));
}

#[test]
fn cache_keys_differ_by_purpose_credential_and_process() {
    let keys = CacheKeys::new();
    assert_eq!(keys.key("a", b"x"), keys.key("a", b"x"));
    assert_ne!(keys.key("a", b"x"), keys.key("b", b"x"));
    assert_ne!(keys.key("a", b"x"), keys.key("a", b"y"));
    assert_ne!(keys.key("a", b"x"), CacheKeys::new().key("a", b"x"));
}
