//! The shadow policy: evaluates an alternative policy next to the enforced one.
//!
//! Differences are logged and counted. This module cannot change a response.

use super::{Error, Proxy};
use crate::authz::{Denied, Identity, Permit};
use crate::mlflow::{Ask, Input, Operation, Verdict};

impl Proxy {
    /// Decides as [`Proxy::permit`] does, and again under the shadow policy, if there is one.
    pub(super) async fn decide_beside(
        &self,
        identity: &Identity,
        operation: &Operation,
        mut input: Input<'_, '_>,
    ) -> Result<Permit, Error> {
        let Some(shadow) = identity.in_the_shadow() else {
            return Box::pin(self.decide(identity, operation, input)).await;
        };
        let decided = Box::pin(self.decide(identity, operation, input.again())).await;
        let enforced = match &decided {
            Ok(_) => None,
            Err(Error::Denied(denied)) => Some(denied),
            // An invalid request cannot be allowed under any policy.
            Err(_) => return decided,
        };
        let would = Box::pin(self.decide(&shadow, operation, input)).await.map(drop);
        let outcome = match (enforced, &would) {
            (None, Err(Error::Denied(denied))) => ("would_deny", Some(denied)),
            (Some(denied), Ok(())) => ("would_allow", Some(denied)),
            (None, Ok(())) | (Some(_), Err(Error::Denied(_))) => ("same", None),
            (_, Err(_)) => ("undecided", None),
        };
        self.note_shadow(identity, operation.name, outcome);
        decided
    }

    /// Decides one field of a GraphQL query under the shadow policy, too.
    pub(super) async fn ask_beside(&self, identity: &Identity, ask: &Ask, verdict: &Verdict) {
        let Some(shadow) = identity.in_the_shadow() else { return };
        let outcome = match (verdict, self.verdict(&shadow, ask, &mut Vec::new()).await) {
            (_, Err(_)) => "undecided",
            (verdict, Ok(would)) if *verdict == would => "same",
            (Verdict::Drop, Ok(_)) => "would_allow",
            (Verdict::Keep, Ok(_)) | (Verdict::Experiments(_), Ok(Verdict::Drop)) => "would_deny",
            (Verdict::Experiments(kept), Ok(Verdict::Experiments(would))) if kept.len() > would.len() => "would_deny",
            (Verdict::Experiments(_), Ok(_)) => "would_allow",
        };
        self.note_shadow(identity, "Graphql", (outcome, None));
    }

    fn note_shadow(&self, identity: &Identity, operation: &str, (outcome, denied): (&'static str, Option<&Denied>)) {
        self.telemetry.metrics.shadow_decided(outcome);
        if matches!(outcome, "would_deny" | "would_allow") {
            let user = if self.telemetry.user_names { &*identity.name } else { "-" };
            let resource = denied.and_then(Denied::about).unwrap_or_default();
            let reason = denied.map(ToString::to_string).unwrap_or_default();
            tracing::info!(user, operation, resource, reason, "{outcome}: the shadow policy decides otherwise");
        }
    }
}
