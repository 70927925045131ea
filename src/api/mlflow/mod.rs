//! MLflow's REST API for users, roles and permissions (`mlflow.server.auth`), in both its generations.
//!
//! Status codes, JSON and messages are those of MLflow 3.17.2 and, for the permissions per resource, of 3.9, the newest release that
//! has them. Where an answer differs on purpose, the function names the difference.

pub(crate) mod resource_permissions;
pub(crate) mod role_permissions;
pub(crate) mod roles;
pub(crate) mod synthetic_roles;
pub(crate) mod user_permissions;
pub(crate) mod users;

#[cfg(test)]
mod tests;
