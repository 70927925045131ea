//! A fake identity provider: a small real HTTP server on a port of its own, with keys of its own, that can misbehave.
//!
//! Shared by the library's own tests and those of the whole proxy, so it uses nothing of the library.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, KeyPair as _};
use aws_lc_rs::{hmac, rsa};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// A key that signs tokens.
pub(crate) struct Signer {
    pub(crate) kid: String,
    key: Key,
}

enum Key {
    Rsa(Box<signature::RsaKeyPair>),
    Ec(signature::EcdsaKeyPair, &'static str),
    Ed(signature::Ed25519KeyPair),
}

/// An RSA key, made once: that takes a while.
pub(crate) static RSA: LazyLock<Signer> = LazyLock::new(|| Signer::rsa("rsa-1"));
/// Another one, for what comes after a rotation and for impostors.
pub(crate) static OTHER_RSA: LazyLock<Signer> = LazyLock::new(|| Signer::rsa("rsa-2"));

impl Signer {
    pub(crate) fn rsa(kid: &str) -> Self {
        let key = signature::RsaKeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        Self { kid: kid.to_owned(), key: Key::Rsa(Box::new(key)) }
    }

    pub(crate) fn p256(kid: &str) -> Self {
        let key = signature::EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { kid: kid.to_owned(), key: Key::Ec(key, "P-256") }
    }

    pub(crate) fn p384(kid: &str) -> Self {
        let key = signature::EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        Self { kid: kid.to_owned(), key: Key::Ec(key, "P-384") }
    }

    pub(crate) fn ed25519(kid: &str) -> Self {
        Self { kid: kid.to_owned(), key: Key::Ed(signature::Ed25519KeyPair::generate().unwrap()) }
    }

    /// The public half, as a key set has it.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Key::Rsa(key) => {
                let public = rsa::PublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({ "kty": "RSA", "n": encode(&public.n), "e": encode(&public.e) })
            }
            Key::Ec(key, curve) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) })
            }
            Key::Ed(key) => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key().as_ref()) }),
        };
        jwk["use"] = json!("sig");
        jwk["kid"] = json!(self.kid);
        jwk
    }

    /// A token in the usual form: `alg`, `kid`, `typ: JWT`.
    pub(crate) fn token(&self, alg: &str, claims: &Value) -> String {
        self.token_with(&json!({ "alg": alg, "kid": self.kid, "typ": "JWT" }), claims)
    }

    /// A token with any header, signed as its `alg` says.
    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let signature = self.sign(header["alg"].as_str().unwrap_or_default(), message.as_bytes());
        format!("{message}.{}", encode(&signature))
    }

    fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match (&self.key, alg) {
            // The oldest trick: the public key as the shared secret.
            (_, "HS256") => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.public()), message).as_ref().to_vec(),
            (Key::Rsa(key), alg) => {
                let encoding: &'static dyn signature::RsaEncoding = match alg {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut bytes = vec![0; key.public_modulus_len()];
                key.sign(encoding, &random, message, &mut bytes).unwrap();
                bytes
            }
            (Key::Ec(key, _), _) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            (Key::Ed(key), _) => key.sign(message).as_ref().to_vec(),
        }
    }

    fn public(&self) -> Vec<u8> {
        match &self.key {
            Key::Rsa(key) => key.public_key().as_ref().to_vec(),
            Key::Ec(key, _) => key.public_key().as_ref().to_vec(),
            Key::Ed(key) => key.public_key().as_ref().to_vec(),
        }
    }
}

/// How one path answers.
#[derive(Clone)]
pub(crate) enum Answer {
    /// A status and JSON, by what was asked.
    With(Arc<Script>),
    Json(Value),
    Text(String),
    Status(u16),
    Redirect(String),
    /// Takes the request and says nothing.
    Hang,
    /// Says yes, and then one byte at a time, for ever.
    Trickle,
    /// Endless.
    Huge,
}

/// What it answers to what it was asked.
pub(crate) type Script = dyn Fn(&Request) -> (u16, Value) + Send + Sync;

/// A provider that answers until dropped.
pub(crate) struct FakeProvider {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<HashMap<String, Answer>>,
    requests: Mutex<Vec<Request>>,
    stopped: AtomicBool,
}

/// What somebody asked it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) head: String,
    pub(crate) body: String,
}

pub(crate) const METADATA: &str = "/realms/test/.well-known/openid-configuration";
pub(crate) const CERTS: &str = "/realms/test/certs";

impl FakeProvider {
    /// Starts with a description and these keys.
    pub(crate) fn start(keys: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let provider = Self { address, shared: Arc::clone(&shared) };
        provider.answer(METADATA, Answer::Json(provider.description()));
        provider.publish(keys);
        thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(tcp, &shared));
            }
        });
        provider
    }

    pub(crate) fn issuer(&self) -> String {
        format!("http://{}/realms/test", self.address)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn description(&self) -> Value {
        json!({
            "issuer": self.issuer(),
            "authorization_endpoint": self.url("/realms/test/auth"),
            "token_endpoint": self.url("/realms/test/token"),
            "userinfo_endpoint": self.url("/realms/test/userinfo"),
            "end_session_endpoint": self.url("/realms/test/logout"),
            "jwks_uri": self.url(CERTS),
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
            "authorization_response_iss_parameter_supported": true,
            "backchannel_logout_supported": true,
            "backchannel_logout_session_supported": true,
            "code_challenge_methods_supported": ["plain", "S256"],
            "scopes_supported": ["openid", "email", "profile"],
        })
    }

    /// Has these keys from now on.
    pub(crate) fn publish(&self, keys: &[&Signer]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        self.answer(CERTS, Answer::Json(json!({ "keys": keys })));
    }

    /// Answers a path like this from now on.
    pub(crate) fn answer(&self, path: &str, answer: Answer) {
        self.shared.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// What it was asked at a path.
    pub(crate) fn requests(&self, path: &str) -> Vec<Request> {
        self.shared.requests.lock().unwrap().iter().filter(|request| request.path == path).cloned().collect()
    }
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut tcp: TcpStream, shared: &Shared) {
    let Some(request) = read(&tcp) else { return };
    let answer = shared.answers.lock().unwrap().get(&request.path).cloned().unwrap_or(Answer::Status(404));
    shared.requests.lock().unwrap().push(request.clone());
    let full = |status: &str, kind: &str, body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    };
    let _ = match answer {
        Answer::With(answer) => {
            let (status, json) = answer(&request);
            tcp.write_all(full(&format!("{status} So"), "application/json", &json.to_string()).as_bytes())
        }
        Answer::Json(json) => tcp.write_all(full("200 OK", "application/json", &json.to_string()).as_bytes()),
        Answer::Text(text) => tcp.write_all(full("200 OK", "application/json", &text).as_bytes()),
        Answer::Status(status) => tcp.write_all(full(&format!("{status} No"), "text/plain", "no").as_bytes()),
        Answer::Redirect(to) => {
            let head =
                format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            tcp.write_all(head.as_bytes())
        }
        Answer::Hang => pour(&mut tcp, shared, b"", Duration::from_millis(10)),
        Answer::Trickle => {
            let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n");
            pour(&mut tcp, shared, b" ", Duration::from_millis(10))
        }
        Answer::Huge => {
            let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"keys\":[");
            pour(&mut tcp, shared, &[b' '; 64 * 1024], Duration::ZERO)
        }
    };
}

/// Writes the same again and again, until the other side is gone or the provider is.
fn pour(tcp: &mut TcpStream, shared: &Shared, bytes: &[u8], pause: Duration) -> std::io::Result<()> {
    while !shared.stopped.load(Ordering::SeqCst) {
        tcp.write_all(bytes)?;
        thread::park_timeout(pause);
    }
    Ok(())
}

fn read(tcp: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(tcp);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let target = head.split(' ').nth(1)?;
    let path = target.split('?').next()?.to_owned();
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Request { path, head, body: String::from_utf8_lossy(&body).into_owned() })
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
