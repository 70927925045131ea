//! The contenders and their surroundings: stub, do-nothing proxy, this proxy, and a folder for what they write.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio_rustls::TlsConnector;

use crate::load::Target;
use crate::proc::Process;
use crate::{Settings, setup};

/// Who is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Name {
    Bare,
    Plain,
    Ours,
    /// Ours, and one access line per request.
    Logged,
}

impl Name {
    pub(crate) const ALL: [Self; 4] = [Self::Bare, Self::Plain, Self::Ours, Self::Logged];
}

/// Somebody to send requests to.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) name: Name,
    pub(crate) target: Target,
    /// `None` for the bare upstream, which is the stub itself.
    pub(crate) process: Option<Process>,
}

/// All of them, running.
#[derive(Debug)]
pub(crate) struct Contenders(Vec<Contender>);

impl Contenders {
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Contender> {
        self.0.iter()
    }

    /// Each once, then each once more in the opposite order.
    pub(crate) fn there_and_back(&self) -> impl Iterator<Item = &Contender> {
        self.0.iter().chain(self.0.iter().rev())
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        for process in self.0.into_iter().filter_map(|contender| contender.process) {
            process.stop().await?;
        }
        Ok(())
    }
}

/// What lives as long as the run.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) stub: Process,
    bare: Target,
    plain: PathBuf,
    proxy: Option<PathBuf>,
    tls: Option<Tls>,
    /// Whether proxy and load can each have a core of their own.
    pinned: bool,
    folder: tempfile::TempDir,
}

#[derive(Debug)]
struct Tls {
    cert: String,
    key: String,
    connector: Arc<rustls::ClientConfig>,
}

const PROXY_CORE: usize = 0;
const LOAD_CORE: usize = 1;

impl Workshop {
    pub(crate) async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let works = |core: usize| Command::new("taskset").args(["-c", &core.to_string(), "true"]).status();
        let pinned = [PROXY_CORE, LOAD_CORE].map(works).iter().all(|s| s.as_ref().is_ok_and(|s| s.success()));
        let address = free_address()?;
        let place = folder.path().join("stub");
        std::fs::create_dir(&place)?;
        let core = pinned.then_some(LOAD_CORE);
        let stub = Process::start(&settings.stub, &[&address.to_string()], &[], &place, core, address).await?;
        let tls = if settings.tls { Some(Tls::new(&folder)?) } else { None };
        let bare = Target::new(address, None);
        let (plain, proxy) = (settings.plain.clone(), settings.proxy.clone());
        Ok(Self { stub, bare, plain, proxy, tls, pinned, folder })
    }

    pub(crate) async fn start_all(&self) -> anyhow::Result<Contenders> {
        let mut contenders = Vec::new();
        for name in Name::ALL {
            contenders.push(self.start(name).await?);
        }
        Ok(Contenders(contenders))
    }

    /// Starts one contender, ready for requests. The second start of ours finds the first one's store, users and token.
    pub(crate) async fn start(&self, name: Name) -> anyhow::Result<Contender> {
        match (name, &self.proxy) {
            (Name::Bare, _) => Ok(Contender { name, target: self.bare.clone(), process: None }),
            (Name::Plain, _) | (Name::Ours | Name::Logged, None) => self.start_plain(name).await,
            (Name::Ours | Name::Logged, Some(proxy)) => self.start_ours(name, proxy.clone()).await,
        }
    }

    async fn start_plain(&self, name: Name) -> anyhow::Result<Contender> {
        let address = free_address()?;
        let (listen, upstream) = (address.to_string(), self.bare.address.to_string());
        let mut arguments = vec![listen.as_str(), upstream.as_str()];
        if let Some(tls) = &self.tls {
            arguments.extend([tls.cert.as_str(), tls.key.as_str()]);
        }
        let place = self.place(name)?;
        let process = Process::start(&self.plain, &arguments, &[], &place, self.proxy_core(), address).await?;
        Ok(Contender { name, target: self.target(address), process: Some(process) })
    }

    async fn start_ours(&self, name: Name, program: PathBuf) -> anyhow::Result<Contender> {
        let (address, admin) = (free_address()?, free_address()?);
        let place = self.place(name)?;
        let mut environment = self.environment(address, admin, &place);
        if name == Name::Logged {
            environment.push(("MLFLOW_AUTH_PROXY_LOG__ACCESS", "true".to_owned()));
        }
        let process = Process::start(&program, &["serve"], &environment, &place, self.proxy_core(), address).await?;
        let saved = place.join("token");
        let mut target = self.target(address);
        let token = match std::fs::read_to_string(&saved) {
            Ok(token) => token,
            Err(_) => {
                let token = setup::reader_with_token(&target).await?;
                std::fs::write(&saved, &token)?;
                token
            }
        };
        target.authorization = Some(format!("Bearer {token}"));
        Ok(Contender { name, target, process: Some(process) })
    }

    /// This proxy with further settings and a store of its own; `None` when it is not what is measured.
    pub(crate) async fn start_with(
        &self,
        name: &str,
        more: &[(&'static str, String)],
    ) -> anyhow::Result<Option<(Target, Process)>> {
        let Some(program) = &self.proxy else { return Ok(None) };
        let (address, admin) = (free_address()?, free_address()?);
        let place = self.folder.path().join(name);
        std::fs::create_dir_all(&place)?;
        let mut environment = self.environment(address, admin, &place);
        environment.extend(more.iter().cloned());
        let process = Process::start(program, &["serve"], &environment, &place, self.proxy_core(), address).await?;
        Ok(Some((self.target(address), process)))
    }

    fn environment(&self, address: SocketAddr, admin: SocketAddr, place: &Path) -> Vec<(&'static str, String)> {
        let mut environment = vec![
            ("MLFLOW_AUTH_PROXY_UPSTREAM__URL", format!("http://{}", self.bare.address)),
            ("MLFLOW_AUTH_PROXY_SERVER__LISTEN", address.to_string()),
            ("MLFLOW_AUTH_PROXY_SERVER__MAX_CONNECTIONS", "10000".to_owned()),
            ("MLFLOW_AUTH_PROXY_ADMIN__LISTEN", admin.to_string()),
            ("MLFLOW_AUTH_PROXY_STORE__URL", format!("sqlite://{}", place.join("store.db").display())),
            ("MLFLOW_AUTH_PROXY_BOOTSTRAP__ADMIN_PASSWORD", setup::ADMIN_PASSWORD.to_owned()),
            ("MLFLOW_AUTH_PROXY_LOG__ACCESS", "false".to_owned()),
        ];
        if let Some(tls) = &self.tls {
            environment.push(("MLFLOW_AUTH_PROXY_SERVER__TLS__CERT", tls.cert.clone()));
            environment.push(("MLFLOW_AUTH_PROXY_SERVER__TLS__KEY", tls.key.clone()));
        }
        environment
    }

    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.stub.stop().await?;
        Ok(self.folder.close()?)
    }

    fn target(&self, address: SocketAddr) -> Target {
        Target::new(address, self.tls.as_ref().map(|tls| TlsConnector::from(Arc::clone(&tls.connector))))
    }

    fn place(&self, name: Name) -> anyhow::Result<PathBuf> {
        let place = self.folder.path().join(format!("{name:?}"));
        std::fs::create_dir_all(&place)?;
        Ok(place)
    }

    fn proxy_core(&self) -> Option<usize> {
        self.pinned.then_some(PROXY_CORE)
    }
}

impl Tls {
    /// A certificate for this run only.
    fn new(folder: &tempfile::TempDir) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&cert, made.cert.pem())?;
        std::fs::write(&key, made.signing_key.serialize_pem())?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&cert)?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { cert: cert.display().to_string(), key: key.display().to_string(), connector: Arc::new(config) })
    }
}

/// An address nobody listens on at the moment.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
