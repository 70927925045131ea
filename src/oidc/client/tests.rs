//! A provider that is reached through the proxy on the way out: what that proxy sees, and what it cannot do.

use std::sync::{Arc, Mutex};

use jsonwebtoken::Algorithm;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::Environment;

const NAME: &str = "keycloak.example";

/// A proxy on the way out that leads to one provider, whatever it is asked for.
struct WayOut {
    address: String,
    certificate: CertificateDer<'static>,
    heads: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl WayOut {
    /// One that answers like this.
    async fn start(answer: &'static str) -> Self {
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let certificate = made.cert.der().clone();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
        let tls = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads = Arc::default();
        let mut serving = JoinSet::new();
        let seen: Arc<Mutex<Vec<String>>> = Arc::clone(&heads);
        serving.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let head = head(&mut stream).await;
                seen.lock().unwrap().push(head);
                stream.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes()).await.unwrap();
                let Ok(mut stream) = tls.accept(stream).await else { continue };
                head_and_answer(&mut stream).await;
            }
        });
        Self { address, certificate, heads, _serving: serving }
    }

    /// A client of whoever's environment this is beside `HTTPS_PROXY`, in which `{}` stands for the proxy's address.
    fn client(&self, proxy: &str, more: &[(&str, &str)]) -> Client {
        let proxy = proxy.replace("{}", &self.address);
        let environment = more.iter().copied().chain([("HTTPS_PROXY", proxy.as_str())]);
        let endpoint = Endpoint {
            issuer: format!("https://{NAME}/realms/ml"),
            discovery_url: format!("https://{NAME}/x").parse().unwrap(),
            internal_url: None,
            jwks_url: None,
            ca: vec![self.certificate.clone()],
            bearer_file: None,
            algorithms: vec![Algorithm::RS256],
        };
        Client::new(&endpoint, &Egress::of(&environment.collect::<Environment>())).unwrap()
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn head_and_answer(stream: &mut tokio_rustls::server::TlsStream<TcpStream>) {
    let head = head(stream).await;
    let body = head.lines().next().unwrap_or_default();
    let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
    let _ = stream.shutdown().await;
}

async fn get(client: &Client, url: &str) -> Result<Bytes, Error> {
    let patience = Duration::from_secs(5);
    client.get(&url.parse().unwrap(), "*/*", Some(&"provider's secret".into()), patience).await
}

#[tokio::test]
async fn a_provider_behind_a_proxy_is_reached_and_the_proxy_learns_its_name_only() {
    let way = WayOut::start("200 Connection established").await;
    let client = way.client("http://ann:p%40ss@{}", &[]);
    assert_eq!(get(&client, "https://keycloak.example/certs?x=1").await.unwrap(), "GET /certs?x=1 HTTP/1.1");
    let said = way.heads().join("\n");
    assert!(said.starts_with("CONNECT keycloak.example:443 HTTP/1.1\r\n"), "{said}");
    // ann:p@ss
    assert!(said.contains("Proxy-Authorization: Basic YW5uOnBAc3M=\r\n"), "{said}");
    assert!(!said.contains("secret") && !said.contains("certs"), "{said}");
    assert!(!format!("{client:?}").contains("ss@"), "{client:?}");
}

#[tokio::test]
async fn whoever_answers_at_the_end_of_the_tunnel_must_be_the_provider() {
    let way = WayOut::start("200 OK").await;
    let error = get(&way.client("{}", &[]), "https://other.example:8443/certs").await.unwrap_err();
    assert!(way.heads().join("").starts_with("CONNECT other.example:8443 "));
    let text = error.to_string();
    let expected = format!(
        "https://other.example:8443 cannot be reached through the proxy http://{}/ (HTTPS_PROXY): ",
        way.address
    );
    assert!(text.starts_with(&expected) && text.contains("certificate"), "{text}");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_and_its_password_is_not() {
    for (answer, reason) in [
        ("407 Proxy Authentication Required", "proxy authorization required"),
        ("403 Forbidden", "unsuccessful"),
        ("nonsense", "unsuccessful"),
    ] {
        let way = WayOut::start(answer).await;
        let error = get(&way.client("http://ann:hidden@{}", &[]), "https://keycloak.example/certs").await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&way.address) && text.contains(reason), "{text}");
        assert!(!text.contains("hidden") && !format!("{error:?}").contains("hidden"), "{error:?}");
        assert!(!error.may_have_arrived());
    }
}

#[tokio::test]
async fn whoever_says_nothing_is_given_up_before_anything_was_sent() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap();
    let way = WayOut::start("200 OK").await;
    let given_up = async |proxy: &str, url: &str| {
        let client = way.client(proxy, &[]);
        let error = client.get(&url.parse().unwrap(), "*/*", None, PATIENCE).await.unwrap_err();
        assert!(matches!(&error, Error::Connect(_)) && error.to_string().contains("no connection within"), "{error}");
        assert!(!error.may_have_arrived());
    };
    // The proxy, and a provider in the middle of TLS.
    let (silent, provider) = (silent.to_string(), format!("https://{silent}/"));
    tokio::join!(given_up(&silent, "https://keycloak.example/"), given_up("{}", &provider));
}

#[tokio::test]
async fn what_is_no_proxy_is_never_called() {
    let way = WayOut::start("200 OK").await;
    let error = get(&way.client("socks5://ann:hidden@{}", &[]), "https://keycloak.example/certs").await.unwrap_err();
    let expected = "https://keycloak.example cannot be reached: HTTPS_PROXY names no proxy of the form \
                    http://[USER:PASSWORD@]HOST:PORT";
    assert_eq!(error.to_string(), expected);
    assert!(way.heads().is_empty());
}

#[tokio::test]
async fn what_is_on_this_machine_is_reached_straight() {
    let way = WayOut::start("200 OK").await;
    let client = way.client("http://{}", &[]);
    for url in ["https://127.0.0.1:1", "https://localhost:1", "https://[::1]:1", "http://127.0.0.1:1"] {
        let text = get(&client, url).await.unwrap_err().to_string();
        assert!(text.starts_with(&format!("{url} cannot be reached: ")), "{text}");
    }
    assert!(way.heads().is_empty());
}
