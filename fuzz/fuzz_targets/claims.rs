//! Claims name somebody by what may be a name, in one spelling, or nobody; and nobody is an administrator by accident.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::config::{Issuer, Machine, Preset, check_username};
use mlflow_auth_proxy::oidc::Person;
use mlflow_auth_proxy::oidc::claims::{is_allowed, matches, read, read_all, read_bearer};
use mlflow_auth_proxy_fuzz::{issuer, rules};
use serde_json::Value;

static ISSUERS: LazyLock<Vec<Issuer>> = LazyLock::new(|| {
    let rule = |pattern: &str, name: &str| Machine {
        conditions: vec![("azp".to_owned(), pattern.to_owned())],
        name: name.to_owned(),
        groups: vec!["/ml/jobs".to_owned()],
    };
    let machines = vec![rule("ci-*", "ci/{client_id}"), rule("nightly", "nightly")];
    let presets = [Preset::Standard, Preset::Kubernetes, Preset::GithubActions, Preset::GitlabCi];
    presets.map(|preset| Issuer { preset, machines: machines.clone(), ..issuer() }).to_vec()
});

fuzz_target!(|input: &[u8]| {
    let Ok(claims) = serde_json::from_slice::<Value>(input) else { return };
    for issuer in &*ISSUERS {
        if let Ok(person) = read_bearer(issuer, &claims) {
            check(&person);
            assert_eq!(person.machine, person.subject.starts_with("machine:"), "{person:?}");
        }
    }
    let Ok(person) = read(&rules(), &claims) else { return };
    check(&person);
    assert!(!person.machine && !person.subject.starts_with("machine:"), "{person:?}");
    assert_eq!(read_all(&rules(), &[&claims, &claims]).as_ref(), Ok(&person), "the same twice says nothing new");
    // Who signs in by a name signs in by the same name after it was stored.
    let mut again = claims;
    again["email"] = person.name.clone().into();
    assert_eq!(read(&rules(), &again).map(|again| again.name), Ok(person.name));
});

fn check(person: &Person) {
    assert_eq!(check_username(&person.name), Ok(()), "{person:?}");
    assert!(!person.name.chars().any(char::is_uppercase), "{person:?}");
    assert!(!person.groups.iter().any(|group| group.contains(char::is_control)), "{person:?}");
    let mut groups = person.groups.clone();
    groups.sort_unstable();
    groups.dedup();
    assert_eq!(groups.len(), person.groups.len(), "each once: {person:?}");
    assert_eq!(person.allowed, is_allowed(&rules(), &person.groups));
    let admin = |group: &String| matches("/ml/admin*", group) && group.starts_with("/ml/admin");
    assert_eq!(person.admin, person.groups.iter().any(admin), "{person:?}");
}
