//! The HTTP client for identity providers.
//!
//! Every call has a time limit, reads an answer of limited size and follows no redirects: the configuration and
//! discovery determine the URLs, not an answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpStream;
use tower::Service;
use url::Url;

use crate::config::{Egress, Endpoint, Proxy, Way, is_loopback};
use crate::http::{ReadError, cause, read_bounded};

/// Default time limit of a call.
pub const PATIENCE: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(3);
/// Time limit from the DNS look-up to the end of the TLS handshake, including any proxy. Less than [`PATIENCE`], so
/// that a failed connection is not reported as a timeout, after which the request may have arrived.
const REACH: Duration = Duration::from_secs(8);
const IDLE: Duration = Duration::from_secs(10);
/// Maximum size of an answer: metadata, key sets, tokens, user info. Real ones have a few kilobytes.
const MAX_BYTES: usize = 1024 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;

/// Reason for which a provider gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Connect(Box<Unreached>),
    #[error("{to} cannot be reached: {variable} names no proxy of the form http://[USER:PASSWORD@]HOST:PORT")]
    Barred { to: String, variable: &'static str },
    #[error("gave no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the connection broke: {}", cause(.0))]
    Broken(#[source] legacy::Error),
    #[error("the answer could not be read: {0}")]
    Unreadable(#[from] ReadError),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("`{0}` is neither https, nor on this machine, nor the configured internal_url")]
    Unsafe(String),
    #[error("the request cannot be written as HTTP")]
    Unwritable,
}

impl Error {
    /// Returns a word from a bounded set, for logs and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) | Self::Barred { .. } => "connect",
            Self::TimedOut(_) => "timeout",
            Self::Broken(_) => "broken",
            Self::Unreadable(_) => "unreadable",
            Self::Status(_) => "status",
            Self::Unsafe(_) => "unsafe",
            Self::Unwritable => "unwritable",
        }
    }

    /// Returns true if the provider may have received the request, so that a code or token in it may be used up.
    #[must_use]
    pub const fn may_have_arrived(&self) -> bool {
        match self {
            Self::TimedOut(_) | Self::Broken(_) | Self::Unreadable(_) | Self::Status(_) => true,
            Self::Connect(_) | Self::Barred { .. } | Self::Unsafe(_) | Self::Unwritable => false,
        }
    }
}

/// A connection that could not be established. Nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("{to} cannot be reached{}: {}", through(.proxy.as_ref()), cause(.source))]
pub struct Unreached {
    /// Scheme, host and port.
    pub to: String,
    /// The proxy that was to lead there, if any.
    pub proxy: Option<Proxy>,
    source: legacy::Error,
}

/// A pooled client for one provider. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    pool: legacy::Client<Reach, Full<Bytes>>,
    egress: Egress,
    /// The configured `internal_url`. Plain HTTP is allowed only to its origin and to this machine.
    internal: Option<Url>,
}

impl Client {
    /// Creates a client that trusts the system's root certificates and the endpoint's own. It connects on first use.
    ///
    /// # Errors
    /// Returns an error if one of the endpoint's certificates is invalid.
    pub fn new(endpoint: &Endpoint, egress: &Egress) -> std::io::Result<Self> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        // The connector is also used below TLS. By default it refuses `https` URLs.
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT));
        let tls = HttpsConnectorBuilder::new().with_tls_config(tls(&endpoint.ca)?);
        let connector = tls
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector { straight: connector, egress: egress.clone() });
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(4)
            .http1_max_buf_size(BUFFER_BYTES);
        Ok(Self {
            pool: builder.build(Reach(connector)),
            egress: egress.clone(),
            internal: endpoint.internal_url.clone(),
        })
    }

    /// Returns the outbound proxy for calls to `to`.
    pub(super) fn proxy_for(&self, to: &Uri) -> Option<&Proxy> {
        match self.egress.way_to(to) {
            Way::Through(proxy) => Some(proxy),
            Way::Straight | Way::Barred(_) => None,
        }
    }

    /// Sends a GET request, with a bearer token if one is given.
    ///
    /// # Errors
    /// See [`Error`]. Any status other than 200 is an error.
    pub async fn get(
        &self,
        url: &Url,
        accept: &'static str,
        bearer: Option<&SecretString>,
        patience: Duration,
    ) -> Result<Bytes, Error> {
        let (head, body) = self.get_any(url, accept, bearer, patience).await?.into_parts();
        if head.status == StatusCode::OK { Ok(body) } else { Err(Error::Status(head.status)) }
    }

    /// Sends a GET request, with a bearer token if one is given. Returns the answer, regardless of its status.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_any(
        &self,
        url: &Url,
        accept: &'static str,
        bearer: Option<&SecretString>,
        patience: Duration,
    ) -> Result<Response<Bytes>, Error> {
        let mut request = Request::new(Vec::new());
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(accept));
        if let Some(bearer) = bearer {
            let value = format!("Bearer {}", bearer.expose_secret());
            let mut value = HeaderValue::try_from(value).map_err(|_| Error::Unwritable)?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        *request.uri_mut() = url.as_str().parse().map_err(|_| Error::Unwritable)?;
        self.send(request, patience).await
    }

    /// Sends a request and returns the whole answer, regardless of its status.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn send(&self, request: Request<Vec<u8>>, patience: Duration) -> Result<Response<Bytes>, Error> {
        let url = Url::parse(&request.uri().to_string()).map_err(|_| Error::Unwritable)?;
        // Checked for every request, because most URLs are from the provider's metadata.
        if !is_safe(&url, self.internal.as_ref()) {
            return Err(Error::Unsafe(url.origin().ascii_serialization()));
        }
        let to = || url.origin().ascii_serialization();
        let proxy = match self.egress.way_to(request.uri()) {
            Way::Straight => None,
            Way::Through(proxy) => Some(proxy.clone()),
            Way::Barred(variable) => return Err(Error::Barred { to: to(), variable }),
        };
        let request = request.map(|body| Full::new(Bytes::from(body)));
        let exchange = async {
            let response = self.pool.request(request).await.map_err(|source| {
                if !source.is_connect() {
                    return Error::Broken(source);
                }
                Error::Connect(Box::new(Unreached { to: to(), proxy, source }))
            })?;
            let (head, body) = response.into_parts();
            Ok(Response::from_parts(head, read_bounded(body, MAX_BYTES).await?))
        };
        tokio::time::timeout(patience, exchange).await.unwrap_or(Err(Error::TimedOut(patience)))
    }
}

/// A connector that fails if the connection takes longer than [`REACH`].
#[derive(Clone, Debug)]
struct Reach(HttpsConnector<Connector>);

impl Service<Uri> for Reach {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(REACH, self.0.call(to));
        Box::pin(async move { connecting.await.map_err(|_| format!("no connection within {REACH:?}"))? })
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connecting<S> = Pin<Box<dyn Future<Output = Result<S, BoxError>> + Send>>;

/// Connects to a host directly, or through a tunnel of the outbound proxy (RFC 9110 §9.3.6).
#[derive(Clone, Debug)]
struct Connector {
    straight: HttpConnector,
    egress: Egress,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.straight.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let proxy = match self.egress.way_to(&to) {
            Way::Straight => {
                let connecting = self.straight.call(to);
                return Box::pin(async move { Ok(connecting.await?) });
            }
            Way::Through(proxy) => proxy,
            Way::Barred(variable) => return Box::pin(async move { Err(variable.into()) }),
        };
        let tunnel = Tunnel::new(proxy.uri.clone(), self.straight.clone());
        let mut tunnel = match &proxy.credential {
            Some(credential) => tunnel.with_auth(credential.clone()),
            None => tunnel,
        };
        let connecting = tunnel.call(to);
        Box::pin(async move { Ok(connecting.await?) })
    }
}

fn through(proxy: Option<&Proxy>) -> String {
    proxy.map_or_else(String::new, |proxy| format!(" through the proxy {} ({})", proxy.uri, proxy.variable))
}

impl<'c> openidconnect::AsyncHttpClient<'c> for Client {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Vec<u8>>, Error>> + Send + 'c>>;

    fn call(&'c self, request: Request<Vec<u8>>) -> Self::Future {
        Box::pin(async move { Ok(self.send(request, PATIENCE).await?.map(Vec::from)) })
    }
}

/// Returns true if a URL may be called: over TLS, on this machine, or at the configured `internal_url`.
pub(super) fn is_safe(url: &Url, internal: Option<&Url>) -> bool {
    match url.scheme() {
        "https" => url.host().is_some(),
        "http" => is_loopback(url) || internal.is_some_and(|internal| internal.origin() == url.origin()),
        _ => false,
    }
}

fn tls(ca: &[CertificateDer<'static>]) -> std::io::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    // Some of the system's certificates may be unreadable or too old to parse. They are skipped and thereby not
    // trusted.
    let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in ca {
        roots.add(certificate.clone()).map_err(std::io::Error::other)?;
    }
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(std::io::Error::other)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests;
