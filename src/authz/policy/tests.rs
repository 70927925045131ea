use super::*;
use crate::authz::{DefaultPermission, Identity, Limits, Scheme, UserId, Visibility, may};

const NOTHING: DefaultPermission = DefaultPermission(Permission::NoPermissions);

fn groups(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What the file alone says of somebody and one thing.
#[track_caller]
fn level(file: &str, user: &str, of: &[&str], resource: &Resource) -> Option<Permission> {
    let file = PolicyFile::parse(file).expect("a policy file");
    file.alone(&Member { name: user, groups: &groups(of), ..Member::default() }).level(resource)
}

fn on(to: &str, on: &str, permission: &str) -> String {
    format!("[[grants]]\nto = {{ {to} }}\non = {{ {on} }}\npermission = \"{permission}\"\n")
}

fn experiment(name: &str) -> Resource {
    Resource::experiment("7", name)
}

#[test]
fn a_group_with_everything_below_it_is_that_group_and_what_is_below() {
    for (subject, group, meant) in [
        ("/ml", "/ml", true),
        ("/ml", "/ml/a", false),
        ("/ml/**", "/ml", true),
        ("/ml/**", "/ml/a", true),
        ("/ml/**", "/ml/a/b", true),
        ("/ml/**", "/mlx", false),
        ("/ml/**", "/mlx/a", false),
        ("/ml/**", "/x/ml", false),
        ("/ml/**", "ml", false),
        ("/**", "/ml", true),
        ("/**", "/ml/a", true),
        ("/**", "ml", false),
        ("ml/**", "ml/a", true),
        ("ml", "ML", false),
        ("kc:/ml/**", "kc:/ml/a", true),
        ("kc:/ml/**", "/ml/a", false),
    ] {
        let file = on(&format!("group = \"{subject}\""), "experiment = \"*\"", "READ");
        let found = level(&file, "ann", &[group], &experiment("any")).is_some();
        assert_eq!(found, meant, "{subject} and {group}");
    }
}

#[test]
fn a_sentence_is_about_whom_and_what_it_names() {
    use Permission::{Edit, Read};
    let model = |name: &str| Resource::new(ResourceKind::RegisteredModel, name);
    for (sentence, resource, expected) in [
        (on("user = \"ann\"", "experiment = \"fraud-*\"", "EDIT"), experiment("fraud-eu"), Some(Edit)),
        (on("user = \"ann\"", "experiment = \"fraud-*\"", "EDIT"), experiment("x-fraud-eu"), None),
        (on("user = \"ann\"", "experiment = \"fraud\"", "EDIT"), experiment("fraud"), Some(Edit)),
        (on("user = \"ann\"", "experiment = \"7\"", "EDIT"), experiment("fraud"), None),
        (on("user = \"ann\"", "experiment_id = \"7\"", "EDIT"), experiment("fraud"), Some(Edit)),
        (on("user = \"bob\"", "experiment = \"*\"", "EDIT"), experiment("fraud"), None),
        (on("user = \"*\"", "experiment = \"*\"", "READ"), experiment("fraud"), Some(Read)),
        (on("user = \"*\"", "registered_model = \"fraud\"", "READ"), model("fraud"), Some(Read)),
        (on("user = \"*\"", "registered_model = \"fraud\"", "READ"), model("fraud-2"), None),
        (on("user = \"*\"", "registered_model = \"f?aud*\"", "READ"), model("fraud-2"), Some(Read)),
        (on("user = \"*\"", "prompt = \"*\"", "READ"), model("fraud"), None),
        (on("user = \"*\"", "scorer = \"7/a b\"", "READ"), Resource::new(ResourceKind::Scorer, "7/a%20b"), Some(Read)),
        (on("user = \"*\"", "run = \"*\"", "READ"), Resource::new(ResourceKind::Run, "any"), Some(Read)),
    ] {
        assert_eq!(level(&sentence, "ann", &[], &resource), expected, "{sentence}{resource:?}");
    }
}

#[test]
fn a_role_is_meant_by_its_name() {
    let file = PolicyFile::parse(&on("role = \"reviewers\"", "experiment = \"*\"", "READ")).expect("a policy file");
    let level = |roles| file.alone(&Member { name: "ann", roles, ..Member::default() }).level(&experiment("x"));
    assert_eq!(level(vec!["reviewers"]), Some(Permission::Read));
    assert_eq!(level(vec!["other"]), None);
}

#[test]
fn any_refusal_wins_wherever_it_stands() {
    let file = on("group = \"/ml/**\"", "experiment = \"*\"", "MANAGE")
        + &on("user = \"*\"", "experiment = \"secret-*\"", "DENY")
        + &on("user = \"ann\"", "experiment = \"secret-of-ann\"", "MANAGE");
    assert_eq!(level(&file, "ann", &["/ml/a"], &experiment("open")), Some(Permission::Manage));
    assert_eq!(level(&file, "ann", &["/ml/a"], &experiment("secret-of-ann")), Some(Permission::Deny));
}

#[test]
fn an_experiment_whose_name_is_not_known_is_refused_where_a_name_could_refuse() {
    let unknown = Resource::new(ResourceKind::Experiment, "7");
    let gives = on("user = \"*\"", "experiment = \"*\"", "READ");
    let refuses = on("user = \"*\"", "experiment = \"secret-*\"", "DENY");
    let adds = on("user = \"*\"", "experiment = \"open-*\"", "EDIT");
    assert_eq!(level(&(gives.clone() + &refuses), "ann", &[], &unknown), Some(Permission::Deny));
    assert_eq!(level(&(gives + &adds), "ann", &[], &unknown), Some(Permission::Read), "what would add does not");
    assert_eq!(level(&adds, "ann", &[], &unknown), None);
}

#[test]
fn a_personal_prefix_is_its_owners() {
    let file = on("user = \"*\"", "registered_model = \"{user}/*\"", "MANAGE")
        + &on("user = \"*\"", "experiment = \"/Users/{user}/*\"", "MANAGE");
    let model = |name: &str| Resource::new(ResourceKind::RegisteredModel, name);
    assert_eq!(level(&file, "ann@x.org", &[], &model("ann@x.org/m")), Some(Permission::Manage));
    assert_eq!(level(&file, "ann@x.org", &[], &model("bob@x.org/m")), None);
    assert_eq!(level(&file, "ann", &[], &experiment("/Users/ann/a/b")), Some(Permission::Manage));
    assert_eq!(level(&file, "ann", &[], &experiment("/Users/annette/a")), None);
    // A name that is a pattern opens nobody's things.
    for name in ["*", "?nn@x.org", "a*"] {
        assert_eq!(level(&file, name, &[], &model("ann@x.org/m")), None, "{name}");
        assert_eq!(level(&file, name, &[], &model(&format!("{name}/m"))), None, "{name}");
    }
    let refusing = on("user = \"*\"", "registered_model = \"{user}-*\"", "DENY");
    assert_eq!(level(&refusing, "a*", &[], &model("ab-x")), Some(Permission::Deny), "refusing more is safe");
}

#[test]
fn what_members_make_is_shared_with_whom_the_file_says() {
    let file = PolicyFile::parse(
        "[[on_create]]\nby = { group = \"/ml/**\" }\nkinds = [\"experiment\", \"prompt\"]\nto = { group = \"/ml\" }\n\
         permission = \"EDIT\"\n",
    )
    .expect("a policy file");
    let shared = |of: &[&str], kind| {
        let groups = groups(of);
        let who = Member { name: "ann", groups: &groups, ..Member::default() };
        file.on_create(kind, &who).map(|rule| (rule.to.to_string(), rule.permission)).collect::<Vec<_>>()
    };
    assert_eq!(shared(&["/ml/a"], ResourceKind::Experiment), [("group:/ml".to_owned(), Permission::Edit)]);
    assert_eq!(shared(&["/ml/a"], ResourceKind::RegisteredModel), []);
    assert_eq!(shared(&["/mlx"], ResourceKind::Experiment), []);
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = "\
[[grants]]
to = { group = \"/ml/*\" }
on = { experiment = \"x\", prompt = \"y\" }
permission = \"edit\"

[[grants]]
to = { user = \"ann\", group = \"/ml\" }
on = { run = \"12\" }
permission = \"READ\"

[[grants]]
to = { user = \"ann\" }
on = { experiment_id = \"fraud\" }
permissions = \"READ\"

[[on_create]]
by = { user = \"ann\" }
kinds = [\"run\", \"nothing\"]
to = { user = \"*\" }
permission = \"DENY\"

[[tests]]
who = { user = \"ann\" }
operation = \"READ\"
on = { registered_model = \"*\" }
expect = \"yes\"
";
    insta::assert_snapshot!(PolicyFile::parse(text).expect_err("wrong").to_string());
}

#[test]
fn what_cannot_be_granted_is_refused() {
    for (sentence, words) in [
        (on("team = \"x\"", "experiment = \"*\"", "READ"), "`team` is not a key of `to`"),
        (on("user = \"\"", "experiment = \"*\"", "READ"), "must not be empty"),
        (on("user = \"a\"", "experiment = \"\"", "READ"), "must not be empty"),
        (on("user = \"a\"", "job = \"*\"", "READ"), "cannot be granted"),
        (on("user = \"a\"", "workspace = \"*\"", "MANAGE"), "to roles only"),
        (on("user = \"a\"", "gateway_endpoint = \"e-*\"", "USE"), "not by a glob"),
        (on("user = \"a\"", "gateway_endpoint = \"{user}\"", "USE"), "names only"),
        (on("user = \"a\"", "scorer = \"quality\"", "READ"), "EXPERIMENT_ID/NAME"),
        (on("user = \"a\"", "skill = \"review\"", "USE"), "one of READ, EDIT, MANAGE, NO_PERMISSIONS, DENY"),
        (on("user = \"a\"", "skill = \"Review\"", "READ"), "this matches no skill"),
        (on("user = \"a\"", "mcp_server = \"a\"", "DENY"), "this matches no MCP server"),
        (on("user = \"a\"", "experiments = \"*\"", "READ"), "is not a resource type"),
        (on("user = \"a\"", "experiment = 12", "READ"), "expected a string"),
        ("grant = []\n".to_owned(), "unknown field"),
        ("[[grants]\n".to_owned(), "line 1"),
        (format!("# {}\n", "x".repeat(2 * 1024 * 1024)), "larger than"),
    ] {
        let said = PolicyFile::parse(&sentence).expect_err(words).to_string();
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_list_of_experiments_is_asked_row_by_row_where_names_decide() {
    let file = PolicyFile::parse(&on("user = \"*\"", "experiment = \"fraud-*\"", "READ")).expect("a policy file");
    let grants = Arc::new(file.alone(&Member { name: "ann", ..Member::default() }));
    let who = Identity {
        user: UserId(1),
        name: "ann".into(),
        admin: false,
        scheme: Scheme::Jwt,
        groups: Arc::default(),
        limits: Limits::parse(["experiment:7"]).expect("scopes"),
        grants,
        shadow: None,
    };
    assert_eq!(Visibility::of(&who, NOTHING, ResourceKind::Experiment), Visibility::PerRow);
    assert!(who.needs_names());
    let reads = |resource: &Resource| may(&who, NOTHING, Permission::Read, resource);
    assert!(reads(&experiment("fraud-eu")));
    assert!(!reads(&experiment("other")));
    assert!(!reads(&Resource::experiment("8", "fraud-eu")), "the token is for another");
}

#[test]
fn a_rule_means_the_accounts_of_one_home() {
    let file = PolicyFile::parse(
        &[
            on("user = \"ceo@example.org\"", "registered_model = \"plain\"", "READ"),
            on("user = \"ceo@example.org\", provider = \"partner\"", "registered_model = \"theirs\"", "READ"),
            on("user = \"*\"", "registered_model = \"{user}-*\"", "EDIT"),
            on("user = \"*\", provider = \"partner\"", "registered_model = \"partner-{user}-*\"", "EDIT"),
            on("user = \"*\"", "registered_model = \"{user}-secret\"", "DENY"),
            on("group = \"/ml\", provider = \"partner\"", "registered_model = \"of-group\"", "READ"),
        ]
        .concat(),
    )
    .expect("a policy file");
    let of = |name: &'static str, is_plain| {
        let groups = groups(&["/ml"]);
        let member = Member { name: "ceo@example.org", home: Home { name, is_plain }, groups: &groups, roles: vec![] };
        let set = file.alone(&member);
        ["plain", "theirs", "ceo@example.org-x", "partner-ceo@example.org-x", "of-group", "ceo@example.org-secret"]
            .map(|model| set.level(&Resource::new(ResourceKind::RegisteredModel, model)))
    };
    let (read, edit, deny) = (Some(Permission::Read), Some(Permission::Edit), Some(Permission::Deny));
    assert_eq!(of("keycloak", true), [read, None, edit, None, None, deny]);
    assert_eq!(of(LOCAL, true), [read, None, edit, None, None, deny]);
    assert_eq!(of("partner", false), [None, read, None, edit, read, deny], "what takes away holds for everybody");
    assert_eq!(of("", false), [None, None, None, None, None, deny]);
    assert_eq!(file.providers().count(), 3);
    assert_eq!(file.by_plain_name().count(), 3);
    for wrong in ["role = \"r\", provider = \"x\"", "provider = \"x\""] {
        assert!(PolicyFile::parse(&on(wrong, "registered_model = \"m\"", "READ")).is_err(), "{wrong}");
    }
}
