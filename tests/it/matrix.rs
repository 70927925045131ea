//! The golden matrix: who may do which operation. A change of policy is a diff that a person can approve.

use std::sync::Arc;

use mlflow_auth_proxy::authz::{
    Grant, Identity, Limits, Permission, Policy, Requirement, Resource, ResourceKind, Scheme, Selector, Subject,
    UserId, authorize,
};
use mlflow_auth_proxy::mlflow::{Need, Operation, Table, Thing};

const POLICY: Policy = Policy { default_permission: Permission::NoPermissions };

fn person(level: Option<Permission>, admin: bool, read_only: bool) -> Identity {
    let grants = ResourceKind::ALL.into_iter().filter(|kind| !kind.is_tier()).flat_map(|kind| {
        level.map(|permission| Grant {
            subject: Subject::User(UserId(1)),
            kind,
            selector: Selector::Exact("1".to_owned()),
            permission,
        })
    });
    Identity {
        user: UserId(1),
        name: "someone".into(),
        admin,
        scheme: Scheme::Password,
        groups: Arc::default(),
        limits: Limits { read_only, ..Limits::default() },
        grants: Arc::new(grants.collect()),
        shadow: None,
    }
}

/// Every thing the operation names belongs to experiment 1 or is model 1.
fn requirements(operation: &Operation) -> Vec<Requirement> {
    let requirement = |need: &Need| match need {
        Need::Public | Need::SignedIn => Requirement::SignedIn,
        Need::Admin | Need::Blocked(_) => Requirement::Admin { change: true },
        Need::Create(kind) => Requirement::Create(*kind),
        Need::NotDenied(tier) => Requirement::NotDenied(*tier),
        Need::Tier(permission, tier) => Requirement::Tier { permission: *permission, tier: *tier },
        Need::Level { permission, thing, .. } => {
            let kind = match thing {
                Thing::Model | Thing::VersionOf => ResourceKind::RegisteredModel,
                Thing::Scorer | Thing::ScorerVersion | Thing::Guardrail => ResourceKind::Scorer,
                Thing::Secret => ResourceKind::GatewaySecret,
                Thing::Endpoint | Thing::EndpointName => ResourceKind::GatewayEndpoint,
                Thing::ModelDefinition => ResourceKind::GatewayModelDefinition,
                Thing::McpServer | Thing::McpServerVersion => ResourceKind::McpServer,
                Thing::Skill | Thing::NewSkill => ResourceKind::Skill,
                Thing::Job => ResourceKind::Job,
                _ => ResourceKind::Experiment,
            };
            Requirement::level(*permission, Resource::new(kind, "1"))
        }
    };
    operation.needs.iter().map(requirement).collect()
}

#[test]
fn who_may_do_what_is_what_was_reviewed() {
    let people = [
        ("nothing", person(None, false, false)),
        ("DENY", person(Some(Permission::Deny), false, false)),
        ("READ", person(Some(Permission::Read), false, false)),
        ("USE", person(Some(Permission::Use), false, false)),
        ("EDIT", person(Some(Permission::Edit), false, false)),
        ("MANAGE", person(Some(Permission::Manage), false, false)),
        ("read-only", person(Some(Permission::Manage), false, true)),
        ("admin", person(None, true, false)),
    ];
    let table = Table::built_in().expect("the built-in table");
    let mut text = format!("{:<30}", "");
    text.extend(people.iter().map(|(name, _)| format!("{name:<10}")));
    for operation in table.operations() {
        text += &format!("\n{:<30}", operation.name);
        let requirements = requirements(operation);
        for (_, person) in &people {
            let allowed = operation.is_public() || authorize(person, POLICY, &requirements).is_ok();
            text += &format!("{:<10}", if allowed { "yes" } else { "-" });
        }
    }
    let trimmed: Vec<&str> = text.lines().map(str::trim_end).collect();
    insta::assert_snapshot!(trimmed.join("\n"));
}
