//! What clients carry for us opens as it was sealed, and not when a letter, the purpose or the owner is another.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::crypto::{KeyRing, Sealer, random};
use mlflow_auth_proxy_fuzz::altered;

/// Nothing is ever sealed with this key. The fuzzer sees what the texts below are compared with, and repeats them.
static UNUSED: LazyLock<KeyRing> = LazyLock::new(|| KeyRing::of("2026", &random()));
static SEALER: LazyLock<Sealer> = LazyLock::new(|| Sealer::new(&random()));
static RING: LazyLock<KeyRing> = LazyLock::new(|| KeyRing::of("2026", &random()));

const PURPOSE: &str = "experiments";
const OWNER: i64 = 7;

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    assert_eq!(UNUSED.open(PURPOSE, OWNER, &text), None);
    assert_eq!(UNUSED.open(PURPOSE, OWNER, &format!("2026.{text}")), None);

    let sealed = SEALER.seal(PURPOSE, OWNER, input);
    assert_eq!(SEALER.open(PURPOSE, OWNER, &sealed).as_deref(), Some(input));
    assert_eq!(SEALER.open(&text, OWNER, &sealed).is_some(), text == PURPOSE);
    assert_eq!(SEALER.open(PURPOSE, OWNER + 1, &sealed), None);
    let other = altered(&sealed, input);
    assert!(other == sealed || SEALER.open(PURPOSE, OWNER, &other).is_none(), "{other:?} for {sealed:?}");

    let sealed = RING.seal(PURPOSE, OWNER, input);
    assert_eq!(RING.open(PURPOSE, OWNER, &sealed).as_deref(), Some(input));
    let other = altered(&sealed, input);
    assert!(other == sealed || RING.open(PURPOSE, OWNER, &other).is_none(), "{other:?} for {sealed:?}");
});
