//! `health`: asks a running proxy whether it is ready, for health checks of containers and scripts without `curl`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use clap::Args;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;

use super::output;
use crate::config::{self, Flags};

#[derive(Args, Debug)]
#[command(after_help = "\
Exit code 0 if the proxy answers and is ready, 1 otherwise, with the reason.

Examples:
  mlflow-auth-proxy health                                       ask /readyz at admin.listen
  mlflow-auth-proxy health --live                                ask /livez: does the process answer?
  mlflow-auth-proxy health --url http://127.0.0.1:9090/readyz    without reading the configuration")]
pub(super) struct Arguments {
    /// Ask whether the process answers, not whether it is ready to serve
    #[arg(long)]
    live: bool,
    /// Address to ask [default: that of `admin.listen`]
    #[arg(long, value_name = "URL", value_parser = plain_http, conflicts_with = "live")]
    url: Option<Url>,
    /// Seconds to wait for the answer
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

pub(super) async fn run(arguments: Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let url = match arguments.url {
        Some(url) => url,
        None => {
            let path = if arguments.live { "livez" } else { "readyz" };
            format!("http://{}/{path}", reachable(config::load(flags)?.admin.listen)).parse()?
        }
    };
    let limit = Duration::from_secs(arguments.timeout);
    let asked = tokio::time::timeout(limit, ask(&url)).await;
    let (status, body) =
        asked.with_context(|| format!("no answer from {url} within {} seconds", limit.as_secs())).flatten()?;
    let said = String::from_utf8_lossy(&body);
    ensure!(status == StatusCode::OK, "{url} answered {status}: {}", said.trim_end());
    output::line(said.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(url: &Url) -> anyhow::Result<(StatusCode, Bytes)> {
    let (host, port) = (url.host_str().context("the URL has no host")?, url.port_or_known_default().unwrap_or(80));
    let connect = TcpStream::connect((host.trim_matches(['[', ']']), port)).await;
    let connection = connect.with_context(|| format!("{url} cannot be reached"))?;
    let (mut sender, exchange) = http1::handshake(TokioIo::new(connection)).await?;
    let request = Request::get(url.path()).header(header::HOST, format!("{host}:{port}")).body(Empty::<Bytes>::new())?;
    let asking = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        match Limited::new(body, MAX_ANSWER).collect().await {
            Ok(body) => Ok((head.status, body.to_bytes())),
            Err(error) => bail!("the answer of {url} cannot be read: {error}"),
        }
    };
    tokio::select! {
        answer = asking => answer,
        Err(error) = exchange => Err(error).with_context(|| format!("{url} does not speak HTTP")),
    }
}

/// Returns an address of this machine at which a listener can be reached.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let here: IpAddr = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(here, listen.port())
}

fn plain_http(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("{error}"))?;
    if url.scheme() != "http" || url.host_str().is_none() {
        return Err("write http://HOST:PORT/readyz; the listener of admin.listen has no TLS".to_owned());
    }
    Ok(url)
}

/// Maximum size of an answer in bytes.
const MAX_ANSWER: usize = 64 * 1024;
