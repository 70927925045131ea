//! stub
#[derive(Debug)]
pub struct Pages;
impl Pages {
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
