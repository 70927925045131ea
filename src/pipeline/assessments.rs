//! Keeps a started trace from taking over the assessments of another trace.

use std::collections::HashSet;

use super::{Error, Proxy};
use crate::authz::Identity;
use crate::mlflow::{Json, keep_assessment_ids, names_assessments, started_trace};

impl Proxy {
    /// Removes the assessment IDs that do not belong to the trace which `body` starts.
    ///
    /// Requests without such IDs, which is what MLflow's client sends, cost no look-up. Unlimited administrators keep their IDs:
    /// migration tools copy traces with them.
    ///
    /// # Errors
    /// The body is not of the operation's types, or MLflow cannot be asked.
    pub(super) async fn keep_own_assessments(&self, identity: &Identity, body: &mut Json<'_>) -> Result<(), Error> {
        if identity.admin && identity.limits.is_unlimited() || !names_assessments(body)? {
            return Ok(());
        }
        let stored = match started_trace(body)? {
            Some(trace) => self.resolver.assessments_of_trace(&trace).await?,
            None => HashSet::new(),
        };
        Ok(keep_assessment_ids(body, &stored)?)
    }
}
