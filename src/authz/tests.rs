use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const POLICY: DefaultPermission = DefaultPermission(Permission::NoPermissions);

fn grant(kind: ResourceKind, selector: &str, permission: Permission) -> Grant {
    let selector = Selector::parse(kind, selector).expect("a selector");
    Grant { subject: Subject::User(UserId(1)), kind, selector, permission }
}

fn who(grants: &[Grant]) -> Identity {
    Identity {
        user: UserId(1),
        name: "alice".into(),
        admin: false,
        scheme: Scheme::Password,
        groups: Arc::default(),
        limits: Limits::default(),
        grants: Arc::new(grants.iter().cloned().collect()),
        shadow: None,
    }
}

fn experiment(key: &str) -> Resource {
    Resource::new(ResourceKind::Experiment, key)
}

/// The permission matrix as people review it: role x level needed, changed only on purpose.
#[test]
fn the_permission_matrix_is_what_was_reviewed() {
    use Permission::{Deny, Edit, Manage, NoPermissions, Read, Use};
    let exp = |selector: &str, permission| grant(ResourceKind::Experiment, selector, permission);
    let read_only = Limits { read_only: true, ..Limits::default() };
    let scoped = Limits::parse(["experiment:2"]).expect("scopes");
    let rows: Vec<(&str, Identity, Permission)> = vec![
        ("nothing", who(&[]), NoPermissions),
        ("nothing, default READ", who(&[]), Read),
        ("READ", who(&[exp("1", Read)]), NoPermissions),
        ("USE", who(&[exp("1", Use)]), NoPermissions),
        ("EDIT", who(&[exp("1", Edit)]), NoPermissions),
        ("MANAGE", who(&[exp("1", Manage)]), NoPermissions),
        ("READ, default EDIT", who(&[exp("1", Read)]), Edit),
        ("READ on *", who(&[exp("*", Read)]), NoPermissions),
        ("READ and EDIT on *", who(&[exp("1", Read), exp("*", Edit)]), NoPermissions),
        ("EDIT and DENY on *", who(&[exp("1", Edit), exp("*", Deny)]), NoPermissions),
        ("DENY, default MANAGE", who(&[exp("1", Deny)]), Manage),
        ("NO_PERMISSIONS, default READ", who(&[exp("1", NoPermissions)]), Read),
        ("MANAGE on another", who(&[exp("2", Manage)]), NoPermissions),
        ("MANAGE on a model of that name", who(&[grant(ResourceKind::RegisteredModel, "1", Manage)]), NoPermissions),
        ("administrator", Identity { admin: true, ..who(&[]) }, NoPermissions),
        ("administrator with DENY", Identity { admin: true, ..who(&[exp("1", Deny)]) }, NoPermissions),
        (
            "administrator, read-only token",
            Identity { admin: true, limits: read_only.clone(), ..who(&[]) },
            NoPermissions,
        ),
        ("MANAGE, read-only token", Identity { limits: read_only, ..who(&[exp("1", Manage)]) }, NoPermissions),
        ("MANAGE, token for another", Identity { limits: scoped.clone(), ..who(&[exp("1", Manage)]) }, NoPermissions),
        ("administrator, token for another", Identity { admin: true, limits: scoped, ..who(&[]) }, NoPermissions),
    ];
    let mut table = format!(
        "{:<36}{:<8}{:<8}{:<8}{:<8}{:<8}{}\n",
        "experiment 1", "READ", "USE", "EDIT", "MANAGE", "create", "admin"
    );
    for (name, who, default_permission) in rows {
        let default_permission = DefaultPermission(default_permission);
        let mark = |allowed: bool| if allowed { "yes" } else { "-" };
        let levels =
            [Read, Use, Edit, Manage].map(|level| mark(may(&who, default_permission, level, &experiment("1"))));
        let create =
            mark(authorize(&who, default_permission, &[Requirement::Create(ResourceKind::Experiment)]).is_ok());
        let admin = mark(authorize(&who, default_permission, &[Requirement::Admin { change: true }]).is_ok());
        let cells: Vec<String> = levels.iter().chain([&create]).map(|cell| format!("{cell:<8}")).collect();
        table += &format!("{name:<36}{}{admin}\n", cells.concat());
    }
    insta::assert_snapshot!(table);
}

#[test]
fn a_denial_says_what_was_missing_and_no_more() {
    let said = |who: &Identity, requirement: Requirement| {
        authorize(who, POLICY, &[requirement]).expect_err("denied").to_string()
    };
    let reader = who(&[grant(ResourceKind::Experiment, "1", Permission::Read)]);
    let edit = Requirement::level(Permission::Edit, experiment("1"));
    assert!(said(&reader, edit).starts_with("Permission denied. EDIT on experiment `1` is required."));
    let belonging = |owner| Requirement::Belonging {
        permission: Permission::Edit,
        noun: "run",
        id: "r".into(),
        owner,
        tier: Some(ResourceKind::Run),
    };
    // Who may read the experiment may know which it is.
    assert!(said(&reader, belonging(Some(experiment("1")))).contains("experiment `1`"));
    // Who may not cannot tell a hidden run from one that does not exist.
    let hidden = said(&who(&[]), belonging(Some(experiment("77"))));
    assert!(!hidden.contains("77"), "{hidden}");
    assert_eq!(hidden, said(&who(&[]), belonging(None)));
    // Nor can a scoped token.
    let scoped = Identity { limits: Limits::parse(["experiment:2"]).expect("scopes"), ..reader };
    assert_eq!(said(&scoped, belonging(Some(experiment("77")))), said(&scoped, belonging(None)));
}

#[test]
fn a_confined_credential_of_an_administrator_has_no_privileges() {
    let admin = Identity { admin: true, ..who(&[]) };
    let privileged = [Requirement::Privileged("do this")];
    assert!(authorize(&admin, POLICY, &privileged).is_ok());
    for scopes in [["read-only"], ["registered_model:m1"]] {
        let confined = Identity { limits: Limits::parse(scopes).expect("scopes"), ..admin.clone() };
        assert!(authorize(&confined, POLICY, &privileged).is_err(), "{scopes:?}");
    }
}

#[test]
fn a_roles_workspace_decides_what_it_gives() {
    let workspace = |permission| Grant { kind: ResourceKind::Workspace, ..grant(ResourceKind::Run, "*", permission) };
    let of = |name: &str, grants: Vec<Grant>| {
        let mut set: GrantSet = [grant(ResourceKind::Experiment, "1", Permission::Deny)].into_iter().collect();
        set.join(name, grants);
        Identity { grants: Arc::new(set), ..who(&[]) }
    };
    let may = |who: &Identity| may(who, POLICY, Permission::Manage, &experiment("2"));
    let manage = grant(ResourceKind::Experiment, "2", Permission::Manage);
    assert!(may(&of("default", vec![manage.clone()])));
    assert!(!may(&of("team", vec![manage])), "a role of another workspace gives nothing here");

    let ruler = of("default", vec![workspace(Permission::Manage)]);
    assert!(may(&ruler) && ruler.administers("default") && !ruler.administers("team"));
    assert_eq!(ruler.grants.level(&experiment("1")), Some(Permission::Manage), "beats DENY");
    assert_eq!(ruler.grants.level_of_all(ResourceKind::Trace), Some(Permission::Manage));
    assert_eq!(ruler.grants.level(&Resource::new(ResourceKind::Job, "1")), None, "jobs are their creators'");
    assert_eq!(Visibility::of(&ruler, POLICY, ResourceKind::Prompt), Visibility::All);
    let requirement = Requirement::Admin { change: false };
    assert_eq!(authorize(&ruler, POLICY, &[requirement]).unwrap_err(), Denied::NotAdmin, "not of everything");

    let member = of("default", vec![workspace(Permission::Use)]);
    assert!(member.grants.is_member("default") && !member.administers("default") && !may(&member));
    let other = of("team", vec![workspace(Permission::Manage)]);
    assert!(other.administers("team") && !other.administers("default") && !may(&other));
}

#[test]
fn every_requirement_must_hold() {
    let reader = who(&[grant(ResourceKind::Experiment, "1", Permission::Read)]);
    let read = |key: &str| Requirement::level(Permission::Read, experiment(key));
    assert!(authorize(&reader, POLICY, &[read("1")]).is_ok());
    assert!(authorize(&reader, POLICY, &[read("1"), read("2")]).is_err());
    assert!(authorize(&reader, POLICY, &[Requirement::SignedIn, Requirement::Admin { change: false }]).is_err());
}

#[test]
fn what_can_be_read_is_known_in_advance_where_it_can_be() {
    let kind = ResourceKind::RegisteredModel;
    let model = |selector: &str, permission| grant(kind, selector, permission);
    let of = |grants: &[Grant], default_permission| {
        Visibility::of(&who(grants), DefaultPermission(default_permission), kind)
    };
    use Permission::{Deny, Edit, NoPermissions, Read};
    assert_eq!(of(&[], NoPermissions), Visibility::Only(vec![]));
    assert_eq!(of(&[], Read), Visibility::All);
    assert_eq!(
        of(&[model("b", Read), model("a", Edit), model("c", Deny)], NoPermissions),
        Visibility::Only(vec!["a".into(), "b".into()])
    );
    assert_eq!(of(&[model("*", Read)], NoPermissions), Visibility::All);
    assert_eq!(of(&[model("*", Read), model("a", Deny)], NoPermissions), Visibility::PerRow);
    assert_eq!(of(&[model("*", Deny), model("a", Edit)], Edit), Visibility::Only(vec![]));
    assert_eq!(of(&[model("glob:team-*", Read)], NoPermissions), Visibility::PerRow);
    assert_eq!(of(&[model("a", Deny)], Read), Visibility::PerRow);
}

#[test]
fn scopes_that_are_not_understood_are_refused() {
    for scope in [
        "",
        "readonly",
        "read_only",
        "experiment",
        "experiment:",
        "experiment:*",
        "model:x",
        "scorer:1/x",
        "admin",
        "experiment:demo",
        "experiment:01",
    ] {
        assert_eq!(Limits::parse([scope]), Err(ScopeError(scope.to_owned())));
    }
    let limits = Limits::parse(["read-only", "experiment:1", "registered_model:a:b"]).expect("scopes");
    assert_eq!(limits.scopes(), ["read-only", "experiment:1", "registered_model:a:b"]);
}

#[test]
fn a_new_grant_names_what_can_exist() {
    let check = |kind: ResourceKind, right: &[&str], wrong: &[&str]| {
        for key in right {
            assert!(Selector::parse_new(kind, key).is_ok(), "{kind}:{key}");
        }
        for key in wrong {
            let refused = matches!(Selector::parse_new(kind, key), Err(SelectorError::NeverMatches(..)));
            assert!(refused, "{kind}:{key}");
            assert!(Selector::parse(kind, key).is_ok(), "what is stored can be read and revoked: {kind}:{key}");
        }
    };
    check(
        ResourceKind::Experiment,
        &["0", "2", "9223372036854775807", "*", "glob:02"],
        &["02", "00", "+2", " 2", "2.0", "-1", "name", "\u{662}"],
    );
    check(
        ResourceKind::Scorer,
        &["1/judge", "1/my%20scorer", "1/%C3%A4", "*"],
        &["01/judge", "1/my scorer", "1/", "/judge", "1", "1/my%2fscorer", "1/a/b", "1/%41"],
    );
    check(
        ResourceKind::McpServer,
        &["a/b", "com.example/tool", "glob:a/*"],
        &["a", "a/b/c", "a/", "/b", "a/tags", "a/.."],
    );
    check(
        ResourceKind::Skill,
        &["a", "code-review", "@acme/a", "@acme.ai/a-1", "*", "glob:@acme/*"],
        &["A", "-a", "a-", "a--b", "a.b", "@acme", "@/a", "@acme/", "@acme/a/b", "@Acme/a", "@a..b/c", "a/b", "@@a/b"],
    );
    check(ResourceKind::Skill, &[&"a".repeat(64)], &[&"a".repeat(65)]);
    check(ResourceKind::GatewaySecret, &["s-1", &"f".repeat(32)], &["a b", "a/b", &"f".repeat(65)]);
    check(ResourceKind::RegisteredModel, &["02", "a b", "*", "ä/ö"], &[]);
}

#[test]
fn a_skill_is_not_used() {
    assert_eq!(ResourceKind::Skill.levels(), "READ, EDIT, MANAGE, NO_PERMISSIONS, DENY");
    assert_eq!(ResourceKind::Workspace.levels(), "USE, MANAGE");
}

proptest! {
    #[test]
    fn an_exact_selector_selects_itself_only(key in "[^*]{1,20}", other in ".{0,20}") {
        prop_assume!(!key.starts_with("glob:"));
        let selector = Selector::parse(ResourceKind::RegisteredModel, &key).expect("a selector");
        prop_assert!(selector.selects(&Resource::new(ResourceKind::RegisteredModel, key.as_str())));
        prop_assert_eq!(selector.selects(&Resource::new(ResourceKind::RegisteredModel, other.as_str())), key == other);
        prop_assert_eq!(selector.to_string(), key);
    }

    #[test]
    fn a_selector_is_read_back_as_it_was_written(text in ".{1,40}") {
        for kind in ResourceKind::ALL {
            if let Ok(selector) = Selector::parse(kind, &text) {
                prop_assert_eq!(Selector::parse(kind, &selector.to_string()), Ok(selector));
            }
        }
    }

    /// The compiled set answers as a plain reading of the sentences would.
    #[test]
    fn the_compiled_set_says_what_the_grants_say(
        grants in proptest::collection::vec((prop::sample::select(vec!["*", "a", "b", "glob:a*", "glob:?"]), 0_usize..6), 0..6),
        key in prop::sample::select(vec!["a", "b", "ab", "c"]),
    ) {
        let grants: Vec<Grant> =
            grants.into_iter().map(|(s, p)| grant(ResourceKind::RegisteredModel, s, Permission::ALL[p])).collect();
        let matching: Vec<Permission> = grants.iter().filter(|g| g.selector.selects(&Resource::new(ResourceKind::RegisteredModel, key))).map(|g| g.permission).collect();
        let compiled: GrantSet = grants.into_iter().collect();
        let level = compiled.level(&Resource::new(ResourceKind::RegisteredModel, key));
        prop_assert_eq!(level.is_none(), matching.is_empty());
        if let Some(level) = level {
            let refused = matching.iter().any(|p| p.refuses());
            prop_assert_eq!(level.refuses(), refused);
            if !refused {
                prop_assert_eq!(Some(level), matching.iter().copied().max());
            }
        }
    }
}

#[test]
fn an_explanation_names_every_grant_that_takes_part() {
    use Permission::{Deny, Edit, Manage, Read};
    let exp = |selector: &str, permission| grant(ResourceKind::Experiment, selector, permission);
    let run = grant(ResourceKind::Run, "*", Read);
    let held = [exp("1", Edit), exp("*", Read), exp("2", Manage), run.clone()];
    let level = Requirement::level(Edit, experiment("1"));
    let explained = explain(&who(&held), POLICY, std::slice::from_ref(&level), &experiment("1"), held.clone());
    assert!(explained.allowed && explained.denied.is_none());
    assert_eq!((explained.level, explained.grants), (Edit, vec![exp("1", Edit), exp("*", Read)]));

    let below = Requirement::Level { permission: Edit, resource: experiment("1"), tier: Some(ResourceKind::Run) };
    let explained = explain(&who(&held), POLICY, &[below], &experiment("1"), held.clone());
    assert!(!explained.allowed, "the narrower grant on the tier decides");
    assert!(explained.grants.contains(&run));

    let held = [exp("1", Manage), exp("*", Deny)];
    let explained = explain(&who(&held), POLICY, &[level], &experiment("1"), held.clone());
    assert_eq!((explained.allowed, explained.level), (false, Deny));
    assert!(explained.denied.is_some_and(|denied| denied.starts_with("Permission denied. EDIT on experiment `1`")));
}

proptest! {
    /// What is explained is what would be decided.
    #[test]
    fn an_explanation_never_disagrees_with_the_decision(
        levels in proptest::collection::vec((0usize..6, 0usize..3, any::<bool>()), 0..6),
        needed in 0usize..4,
        default in 0usize..6,
        admin in any::<bool>(),
        read_only in any::<bool>(),
    ) {
        let held: Vec<Grant> = levels
            .into_iter()
            .map(|(level, on, tier)| {
                let (kind, selector) =
                    if tier { (ResourceKind::Run, "*") } else { (ResourceKind::Experiment, ["1", "2", "*"][on]) };
                grant(kind, selector, Permission::ALL[level])
            })
            .collect();
        let limits = Limits { read_only, ..Limits::default() };
        let who = Identity { admin, limits, ..who(&held) };
        let default_permission = DefaultPermission(Permission::ALL[default]);
        let permission = Permission::ALL[needed];
        let asked = Requirement::Level { permission, resource: experiment("1"), tier: Some(ResourceKind::Run) };
        let explained = explain(&who, default_permission, std::slice::from_ref(&asked), &experiment("1"), held.clone());
        prop_assert_eq!(explained.allowed, holds(&who, default_permission, &asked).is_ok());
        let takes_part = |grant: &&Grant| grant.kind == ResourceKind::Run || grant.selector.selects(&experiment("1"));
        prop_assert_eq!(explained.grants.len(), held.iter().filter(takes_part).count());
    }
}

#[test]
fn whoever_holds_a_level_on_one_resource_could_hold_it() {
    use Permission::{Deny, Edit, Manage, NoPermissions, Read};
    let exp = |key: &str, level| grant(ResourceKind::Experiment, key, level);
    for grants in [
        vec![],
        vec![exp("1", Read)],
        vec![exp("2", Manage)],
        vec![exp("*", Edit)],
        vec![exp("*", Deny), exp("1", Manage)],
        vec![exp("1", Deny)],
        vec![grant(ResourceKind::RegisteredModel, "1", Manage)],
    ] {
        for default_permission in [NoPermissions, Read, Manage] {
            let (who, default_permission) = (who(&grants), DefaultPermission(default_permission));
            for level in [Read, Edit, Manage] {
                let could = may_any(&who, default_permission, level, ResourceKind::Experiment);
                for key in ["1", "2", "3"] {
                    let holds = may(&who, default_permission, level, &Resource::new(ResourceKind::Experiment, key));
                    assert!(could || !holds, "{grants:?} {default_permission:?} {level} {key}");
                }
            }
        }
    }
    let default_permission = DefaultPermission(NoPermissions);
    assert!(!may_any(&who(&[]), default_permission, Read, ResourceKind::Experiment));
    assert!(!may_any(&who(&[exp("1", Read)]), default_permission, Edit, ResourceKind::Experiment));
    assert!(!may_any(&who(&[exp("1", Deny)]), default_permission, Read, ResourceKind::Experiment));
    assert!(!may_any(
        &who(&[grant(ResourceKind::RegisteredModel, "1", Manage)]),
        default_permission,
        Read,
        ResourceKind::Experiment
    ));
}

#[test]
fn only_added_exact_grants_that_refuse_nothing_keep_the_rights() {
    let glob = |kind, pattern: &str, permission| Grant {
        selector: Selector::Glob(pattern.to_owned()),
        ..grant(kind, "*", permission)
    };
    let (experiment, model) = (ResourceKind::Experiment, ResourceKind::RegisteredModel);
    let before = [grant(experiment, "1", Permission::Read), glob(model, "m*", Permission::Edit)];
    let set = |grants: &[Grant]| grants.iter().cloned().collect::<GrantSet>();
    let with = |added| set(&[&before[..], &[added]].concat()).include(&set(&before));
    assert!(set(&before).include(&set(&before)));
    assert!(set(&before[..1]).include(&set(&[])), "the first grant");
    assert!(with(grant(experiment, "2", Permission::Manage)));
    assert!(with(grant(ResourceKind::Prompt, "p", Permission::Read)));
    for other in [
        grant(experiment, "2", Permission::Deny),
        grant(experiment, "1", Permission::Manage),
        grant(experiment, "1", Permission::Deny),
        grant(experiment, "*", Permission::Read),
        glob(experiment, "a*", Permission::Read),
        glob(model, "n*", Permission::Deny),
        grant(ResourceKind::Prompt, "*", Permission::Deny),
    ] {
        assert!(!with(other.clone()), "{other:?}");
    }
    assert!(!set(&before[..1]).include(&set(&before)), "one was taken away");
    assert!(!set(&before[1..]).include(&set(&before)), "one was taken away");
    assert!(!set(&[]).include(&set(&before)));
}
