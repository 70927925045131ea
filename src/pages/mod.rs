//! stub
#[derive(Debug)]
pub struct Pages;
impl Pages {
    pub fn new(
        _: std::sync::Arc<crate::store::Store>,
        _: std::sync::Arc<crate::authn::Authn>,
        _: crate::config::Authn,
        _: crate::authz::Policy,
        _: crate::clock::Clock,
    ) -> Self {
        Self
    }
    pub fn owns(_: &str) -> bool {
        false
    }
    pub async fn answer(
        &self,
        _: std::sync::Arc<crate::authz::Identity>,
        _: std::net::IpAddr,
        _: http::Request<bytes::Bytes>,
    ) -> http::Response<bytes::Bytes> {
        todo!()
    }
}
