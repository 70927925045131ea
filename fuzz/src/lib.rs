//! What several targets need: a request out of text, a text with letters exchanged, tokens that a key of ours signed.

use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use mlflow_auth_proxy::clock::Timestamp;
use mlflow_auth_proxy::config::{Claims, ClientAuth, Endpoint, GroupForm, GroupSource, Issuer, Preset, Provider};
use mlflow_auth_proxy::oidc::Keys;
use serde_json::{Value, json};

/// Reads a request of HTTP/1; what follows its head is its body. Lines may end in a plain LF, so that seeds are texts.
pub fn request(input: &[u8]) -> Option<(Parts, &[u8])> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut read = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = read.parse(input) else { return None };
    let mut request = http::Request::builder().method(read.method?).uri(read.path?);
    for header in read.headers {
        request = request.header(header.name, header.value);
    }
    let (head, ()) = request.body(()).ok()?.into_parts();
    Some((head, input.get(length..)?))
}

/// How protobuf's JSON may spell the name of a field, too.
pub fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |camel, word| camel + &word[..1].to_ascii_uppercase() + &word[1..])
}

/// The text with letters replaced, added and taken away, as the input says: three bytes each for place and letter.
pub fn altered(text: &str, input: &[u8]) -> String {
    let mut letters = text.as_bytes().to_vec();
    for edit in input.as_chunks::<3>().0 {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % letters.len().max(1);
        let letter = edit[2] & 0x7f;
        match edit[2] {
            _ if letters.is_empty() => {}
            0x80 => drop(letters.remove(at)),
            0x81 => letters.truncate(at),
            0x82.. => letters.insert(at, letter),
            _ => letters[at] = letter,
        }
    }
    String::from_utf8(letters).expect("ASCII stays ASCII")
}

pub const ISSUER: &str = "https://keycloak.example.com/realms/company";
pub const CLIENT: &str = "mlflow";
pub const NONCE: &str = "n-1";
pub const NOW_SECONDS: i64 = 1_700_000_000;
pub const NOW: Timestamp = Timestamp(NOW_SECONDS * 1000);
/// How far the clocks of the issuer and provider below may differ.
pub const LEEWAY_SECONDS: f64 = 30.0;
const KID: &str = "fuzz";

/// The same in every process, so that what was found once is found again.
static SIGNER: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("32 bytes are a seed"));

/// Its public half, as the issuer's only key.
pub static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let x = URL_SAFE_NO_PAD.encode(SIGNER.public_key().as_ref());
    let key = json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": KID, "x": x });
    Keys::parse(json!({ "keys": [key] }).to_string().as_bytes(), &endpoint().algorithms).expect("a key set")
});

/// A token with this header and these claims, letter for letter, and the right signature.
pub fn signed(header: &str, claims: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = SIGNER.sign(message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The same in the usual form.
pub fn token(kind: &str, claims: &Value) -> String {
    signed(&json!({ "alg": "EdDSA", "kid": KID, "typ": kind }).to_string(), &claims.to_string())
}

fn endpoint() -> Endpoint {
    let algorithms = ["RS256", "PS256", "ES256", "ES384", "EdDSA"];
    Endpoint {
        issuer: ISSUER.to_owned(),
        discovery_url: format!("{ISSUER}/.well-known/openid-configuration").parse().expect("a URL"),
        internal_url: None,
        jwks_url: None,
        ca: Vec::new(),
        bearer_file: None,
        algorithms: algorithms.map(|name| name.parse().expect("an algorithm")).to_vec(),
    }
}

/// An issuer whose tokens programs bring.
pub fn issuer() -> Issuer {
    Issuer {
        name: "keycloak".to_owned(),
        endpoint: endpoint(),
        audiences: vec![CLIENT.to_owned()],
        authorized_parties: Vec::new(),
        leeway: Duration::from_secs_f64(LEEWAY_SECONDS),
        claims: rules(),
        preset: Preset::Standard,
        machines: Vec::new(),
    }
}

/// The same as a provider that people sign in at.
pub fn provider() -> Provider {
    Provider {
        name: "keycloak".to_owned(),
        display_name: "Keycloak".to_owned(),
        client_id: CLIENT.to_owned(),
        client_secret: None,
        client_auth: ClientAuth::Basic,
        scopes: vec!["openid".to_owned()],
        endpoint: endpoint(),
        claims: rules(),
        logout_suspends_tokens: false,
        sync: None,
    }
}

/// How they say who somebody is.
pub fn rules() -> Claims {
    Claims {
        groups: vec![
            GroupSource { claim: "groups".to_owned(), prefix: String::new() },
            GroupSource { claim: "realm_access.roles".to_owned(), prefix: "role:".to_owned() },
        ],
        form: GroupForm::Both,
        allowed: vec!["/ml/**".to_owned()],
        admin: vec!["/ml/admin*".to_owned()],
        username: "email".to_owned(),
        verified_email: true,
        machine_names: Vec::new(),
    }
}
