//! The do-nothing proxy: what hyper itself costs. The yardstick of `benches/run`, and nothing else.
//!
//! Same runtime, allocator, hyper and pooled client as ours; every buffer at hyper's default; bodies stream. It looks at
//! nothing and changes only what a client library needs to send a request on.
//!
//! Usage: `plain-proxy LISTEN UPSTREAM [CERT KEY]`, e.g. `plain-proxy 127.0.0.1:8080 127.0.0.1:5000`. It stops when its
//! standard input closes, so it does not outlive whoever started it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpListener;
use tokio::net::unix::pipe;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (listen, upstream, tls) = match arguments.as_slice() {
        [listen, upstream] => (listen, upstream, None),
        [listen, upstream, cert, key] => (listen, upstream, Some(acceptor(cert, key)?)),
        _ => anyhow::bail!("usage: plain-proxy LISTEN UPSTREAM [CERT KEY]"),
    };
    let listener = TcpListener::bind(listen.parse::<SocketAddr>()?).await?;
    let proxy = PlainProxy::new(upstream.parse()?);
    tokio::select! {
        ended = serve(listener, tls, proxy) => ended,
        () = stdin_closed() => Ok(()),
    }
}

#[derive(Clone)]
struct PlainProxy {
    client: Client<HttpConnector, Incoming>,
    upstream: Authority,
}

impl PlainProxy {
    fn new(upstream: Authority) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Self { client, upstream }
    }

    async fn forward(self, mut request: Request<Incoming>) -> anyhow::Result<Response<Either<Incoming, String>>> {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.upstream);
        *request.uri_mut() = Uri::from_parts(uri)?;
        match self.client.request(request).await {
            Ok(response) => Ok(response.map(Either::Left)),
            Err(error) => {
                let mut response = Response::new(Either::Right(error.to_string()));
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                Ok(response)
            }
        }
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, proxy: PlainProxy) -> anyhow::Result<()> {
    let connections = TaskTracker::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let proxy = proxy.clone();
        match &tls {
            None => drop(connections.spawn(connection(stream, proxy))),
            Some(tls) => {
                let handshake = tls.accept(stream);
                connections.spawn(async move {
                    if let Ok(stream) = handshake.await {
                        connection(stream, proxy).await;
                    }
                });
            }
        }
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, proxy: PlainProxy) {
    let service = service_fn(move |request| proxy.clone().forward(request));
    // A client that goes away in the middle is not our concern here.
    let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// Waits for whoever started us to go away; for ever when standard input is no pipe.
async fn stdin_closed() {
    match pipe::OpenOptions::new().open_receiver("/dev/stdin") {
        Ok(mut stdin) => while !matches!(stdin.read(&mut [0; 64]).await, Ok(0) | Err(_)) {},
        Err(_) => std::future::pending().await,
    }
}

fn acceptor(cert: &str, key: &str) -> anyhow::Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_no_client_auth().with_single_cert(chain, key).context("certificate and key")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
