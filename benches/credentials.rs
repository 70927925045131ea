//! What it costs to recognise somebody: a warm JWT beside a warm access token, and a JWT that was never seen.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use mlflow_auth_proxy::authn::{Authn, RawCredentials, Trusted};
use mlflow_auth_proxy::authz::Limits;
use mlflow_auth_proxy::clock::{Clock, Stopwatch, Timestamp};
use mlflow_auth_proxy::config;
use mlflow_auth_proxy::crypto::AccessToken;
use mlflow_auth_proxy::oidc::token::{self, Unverified};
use mlflow_auth_proxy::oidc::{Keys, Remote};
use mlflow_auth_proxy::store::{Actor, NewToken, Store};
use serde_json::{Value, json};

use crate::provider::{FakeProvider, METADATA, RSA, Signer};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[expect(clippy::too_many_lines, reason = "one benchmark for each kind of credential")]
pub(crate) fn recognise(criterion: &mut Criterion) {
    let provider = FakeProvider::start(&[&RSA]);
    let issuer = issuer(&provider);
    let clock = Clock::default();
    let now = clock.now();
    let mut group = criterion.benchmark_group("recognise");

    let p256 = Signer::p256("ec-1");
    let set = json!({ "keys": [RSA.jwk(), p256.jwk()] }).to_string();
    let keys = Keys::parse(set.as_bytes(), &issuer.endpoint.algorithms).unwrap();
    for (alg, signer) in [("RS256", &*RSA), ("ES256", &p256)] {
        let token = signer.token(alg, &claims(&provider, now, 0));
        group.bench_function(format!("the signature and claims of a JWT, {alg}"), |bencher| {
            bencher.iter(|| {
                let token = Unverified::parse(black_box(&token)).unwrap();
                token::verify(token, &issuer, &keys, now).unwrap()
            });
        });
    }

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let jwt = format!("Bearer {}", RSA.token("RS256", &claims(&provider, now, 0)));
    let (store, remote, access) = runtime.block_on(async {
        let remote = Remote::new(&issuer.endpoint, &config::Egress::default()).unwrap();
        remote.refresh(&|_, _| {}).await.unwrap();
        let store = Arc::new(Store::open("sqlite::memory:", clock.clone()).await.unwrap());
        let actor = Actor { name: "bench".to_owned(), token: None, address: None };
        let user = store.create_user(&actor, "reader", None, false).await.unwrap();
        let (secret, limits) = (AccessToken::generate(), Limits::default());
        let expires = now.plus(Duration::from_hours(1));
        let new = NewToken { user: user.id, name: "bench", hash: secret.hash(), limits: &limits, expires };
        store.create_token(&actor, new).await.unwrap();
        (store, remote, format!("Bearer {}", secret.reveal()))
    });
    let fresh = || {
        let trusted = Trusted { issuer: issuer.clone(), remote: Arc::clone(&remote), login: None };
        Authn::new(&config(), Arc::clone(&store), clock.clone()).with_trusted_issuers(vec![trusted])
    };
    let authn = fresh();
    runtime.block_on(async {
        for credential in [&jwt, &access] {
            authn.authenticate(RawCredentials::authorization(credential.as_bytes()), HERE).await.unwrap();
        }
    });
    for (name, credential) in [("a warm access token", &access), ("a warm JWT", &jwt)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| authn.recent(RawCredentials::authorization(black_box(credential.as_bytes()))).unwrap());
        });
    }

    // Signing takes twenty times as long as what is measured, so the same are new again to whoever has forgotten them.
    // They are from after the moment at which their owner was last heard of, or else the store is asked.
    let later = now.plus(Duration::from_secs(20));
    let unseen: Vec<_> =
        (1..=2_000).map(|id| format!("Bearer {}", RSA.token("RS256", &claims(&provider, later, id)))).collect();
    let (first, unseen) = unseen.split_first().unwrap();
    group.bench_function("a JWT never seen before, RS256", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            let mut left = usize::try_from(iterations).unwrap();
            while left > 0 {
                let authn = fresh();
                let (some, _) = unseen.split_at(left.min(unseen.len()));
                left -= some.len();
                spent += runtime.block_on(async {
                    authn.authenticate(RawCredentials::authorization(first.as_bytes()), HERE).await.unwrap();
                    let started = Stopwatch::start();
                    for bearer in some {
                        black_box(
                            authn.authenticate(RawCredentials::authorization(bearer.as_bytes()), HERE).await.unwrap(),
                        );
                    }
                    started.elapsed()
                });
            }
            spent
        });
    });
    group.finish();
}

/// As large as Keycloak's are.
fn claims(provider: &FakeProvider, now: Timestamp, id: u32) -> Value {
    let now = now.0 / 1000;
    json!({
        "exp": now + 3600, "iat": now, "auth_time": now, "jti": format!("onrtac:6f1d0c1e-2b7a-4a53-9c0c-{id:012}"),
        "iss": provider.issuer(), "aud": ["mlflow", "account"], "sub": "f3a1c2d4-0000-4000-8000-0123456789ab", "typ": "Bearer",
        "azp": "notebooks", "sid": "0123456789abcdef01234567", "acr": "1", "allowed-origins": ["https://mlflow.example.com"],
        "realm_access": { "roles": ["offline_access", "default-roles-company", "uma_authorization", "data-scientist"] },
        "resource_access": { "account": { "roles": ["manage-account", "manage-account-links", "view-profile"] } },
        "scope": "openid email profile", "email_verified": true, "name": "Ann Example", "email": "ann@example.com",
        "groups": ["/ml/team-a", "/ml/team-b", "/everybody"], "preferred_username": "ann", "given_name": "Ann",
    })
}

fn issuer(provider: &FakeProvider) -> config::Issuer {
    config::Issuer {
        name: "keycloak".to_owned(),
        endpoint: config::Endpoint {
            issuer: provider.issuer(),
            discovery_url: provider.url(METADATA).parse().unwrap(),
            internal_url: None,
            jwks_url: None,
            ca: Vec::new(),
            bearer_file: None,
            algorithms: vec!["RS256".parse().unwrap(), "ES256".parse().unwrap()],
        },
        audiences: vec!["mlflow".to_owned()],
        authorized_parties: Vec::new(),
        leeway: Duration::from_secs(30),
        claims: config::Claims {
            groups: vec![config::GroupSource { claim: "groups".to_owned(), prefix: String::new() }],
            form: config::GroupForm::Full,
            allowed: Vec::new(),
            admin: Vec::new(),
            username: "email".to_owned(),
            verified_email: true,
            machine_names: Vec::new(),
        },
        preset: config::Preset::Standard,
        machines: Vec::new(),
    }
}

fn config() -> config::Authn {
    config::Authn {
        cache_ttl: Duration::from_hours(1),
        cache_entries: 1000,
        person_max_age: None,
        ..config::defaults().unwrap().authn
    }
}
