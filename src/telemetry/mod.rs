//! stub
#[derive(Debug)]
pub struct Telemetry;
