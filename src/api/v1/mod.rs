//! The proxy's own REST API, below `/auth/api/v1`.

pub(crate) mod explain;
pub(crate) mod grants;
pub(crate) mod me;
pub(crate) mod sessions;
pub(crate) mod tokens;

#[cfg(test)]
mod tests;
