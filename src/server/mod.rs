//! stub
/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub address: std::net::SocketAddr,
    pub tls: bool,
}
#[derive(Clone, Copy, Debug)]
pub struct EdgeRefusal;
impl EdgeRefusal {
    pub fn reason(&self) -> &'static str {
        "x"
    }
}
impl std::fmt::Display for EdgeRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("x")
    }
}
