//! Facts about the store, on every database: this file is compiled once for each; see the module above.

use super::*;

async fn memory() -> (Store, Clock) {
    fresh(module_path!()).await
}

#[tokio::test]
async fn a_user_is_found_by_the_exact_name_only() {
    let (store, _) = memory().await;
    let hash = PasswordHash("$argon2id$x".to_owned());
    let alice = store.create_user(&actor(), "Alice@Example.com", Some(&hash), true).await.unwrap();
    assert_eq!(alice.created, START);
    let found = store.user_by_name("Alice@Example.com").await.unwrap().unwrap();
    assert_eq!((found.id, found.admin, found.password), (alice.id, true, Some(hash)));
    for other in ["alice@example.com", "Alice@Example.com ", "Alice@Example", "%", ""] {
        assert!(store.user_by_name(other).await.unwrap().is_none(), "{other}");
    }
    assert_eq!(store.user(alice.id).await.unwrap().unwrap().name, "Alice@Example.com");
    assert!(store.user(UserId(99)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_name_is_taken_in_every_case() {
    let (store, _) = memory().await;
    user(&store, "alice").await;
    user(&store, "j\u{f6}rg").await;
    for name in ["alice", "Alice", "ALICE", "J\u{d6}RG"] {
        let again = store.create_user(&actor(), name, None, true).await;
        assert!(matches!(again, Err(Error::Exists(taken)) if taken == name));
    }
    assert_eq!(store.users().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_new_name_looks_like_no_other() {
    let (store, _) = memory().await;
    let alike = |result: Result<User>| matches!(result, Err(Error::LooksLike { other, .. }) if other == "alice");
    user(&store, "alice").await;
    for name in ["al\u{131}ce", "al\u{269}ce", "a1ice", "aIice"] {
        assert!(alike(store.create_user(&actor(), name, None, false).await), "{name}");
    }
    let (first, at) = ("https://first", Occasion::SignIn);
    assert!(alike(store.meet(&actor(), of(first, "1", "al\u{131}ce", true), at).await));
    // The provider keeps ASCII names apart.
    assert_eq!(store.meet(&actor(), of(first, "1", "a1ice", true), at).await.unwrap().name, "a1ice");
    // A rename to such a name is not made.
    store.meet(&actor(), of(first, "2", "bob", true), at).await.unwrap();
    assert_eq!(store.meet(&actor(), of(first, "2", "al\u{131}ce", true), at).await.unwrap().name, "bob");
    // Accounts from before stay: they are found, and their providers' claims followed.
    sql("UPDATE users SET name = $1 WHERE name = 'bob'").bind("al\u{131}ce").execute(&store.writer).await.unwrap();
    assert!(store.user_by_name("al\u{131}ce").await.unwrap().is_some());
    assert_eq!(store.meet(&actor(), of(first, "2", "al\u{131}ce", true), at).await.unwrap().name, "al\u{131}ce");
}

#[tokio::test]
async fn the_last_administrator_can_be_neither_deleted_nor_unmade() {
    let (store, _) = memory().await;
    let root = store.create_user(&actor(), "root", None, true).await.unwrap();
    let alice = user(&store, "alice").await;
    assert!(matches!(store.set_admin(&actor(), root.id, false).await, Err(Error::LastAdmin(name)) if name == "root"));
    assert!(matches!(store.delete_user(&actor(), root.id).await, Err(Error::LastAdmin(_))));
    store.set_admin(&actor(), alice.id, true).await.unwrap();
    store.set_admin(&actor(), root.id, false).await.unwrap();
    assert!(matches!(store.delete_user(&actor(), alice.id).await, Err(Error::LastAdmin(_))));
    store.delete_user(&actor(), root.id).await.unwrap();
}

#[tokio::test]
async fn what_is_asked_of_a_missing_user_is_not_found() {
    let (store, _) = memory().await;
    let (nobody, hash) = (UserId(42), PasswordHash(String::new()));
    assert!(matches!(store.set_password(&actor(), nobody, &hash, AccessTokens::Keep).await, Err(Error::NotFound(_))));
    assert!(matches!(store.set_admin(&actor(), nobody, true).await, Err(Error::NotFound(_))));
    assert!(matches!(store.delete_user(&actor(), nobody).await, Err(Error::NotFound(_))));
    assert!(matches!(token(&store, nobody, "ci").await, Err(Error::NotFound(_))));
    let grant = grant(Subject::User(nobody), ResourceKind::Experiment, "1", Permission::Read);
    assert!(matches!(store.create_grant(&actor(), &grant).await, Err(Error::NotFound(_))));
    assert!(matches!(store.set_grant(&actor(), &grant).await, Err(Error::NotFound(_))));
    assert!(store.grants().await.unwrap().is_empty());
}

#[tokio::test]
async fn tokens_and_grants_go_with_their_user_and_the_number_never_comes_back() {
    let (store, _) = memory().await;
    let alice = user(&store, "alice").await;
    let (secret, _) = token(&store, alice.id, "ci").await.unwrap();
    let grant = grant(Subject::User(alice.id), ResourceKind::Experiment, "1", Permission::Manage);
    store.create_grant(&actor(), &grant).await.unwrap();
    store.delete_user(&actor(), alice.id).await.unwrap();
    assert!(store.token_by_hash(&secret.hash()).await.unwrap().is_none());
    assert!(store.grants().await.unwrap().is_empty());
    store.release_name(&actor(), "alice").await.unwrap();
    assert_ne!(user(&store, "alice").await.id, alice.id);
}

#[tokio::test]
async fn a_token_is_found_by_its_hash_with_its_owner_and_scopes() {
    let (store, _) = memory().await;
    let alice = store.create_user(&actor(), "alice", None, true).await.unwrap();
    let secret = AccessToken::generate();
    let limits = Limits::parse(["read-only", "experiment:12", "registered_model:a \"quoted\" name"]).unwrap();
    let new = NewToken { user: alice.id, name: "ci", hash: secret.hash(), limits: &limits, expires: START.plus(DAY) };
    store.create_token(&actor(), new).await.unwrap();
    let (token, owner) = store.token_by_hash(&secret.hash()).await.unwrap().unwrap();
    assert_eq!((token.name.as_str(), &token.limits, token.expires), ("ci", &limits, START.plus(DAY)));
    assert_eq!((owner.id, owner.name.as_str(), owner.admin), (alice.id, "alice", true));
    assert!(store.token_by_hash(&AccessToken::generate().hash()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_token_name_is_free_again_once_the_token_is_dead() {
    let (store, clock) = memory().await;
    let (alice, bob) = (user(&store, "alice").await, user(&store, "bob").await);
    let (_, first) = token(&store, alice.id, "ci").await.unwrap();
    assert!(matches!(token(&store, alice.id, "ci").await, Err(Error::Exists(name)) if name == "ci"));
    token(&store, bob.id, "ci").await.unwrap();
    store.revoke_token(&actor(), first.id).await.unwrap();
    token(&store, alice.id, "ci").await.unwrap();
    clock.advance(DAY);
    let secret = AccessToken::generate();
    let (hash, limits, expires) = (secret.hash(), Limits::default(), START.plus(DAY * 3));
    let new = NewToken { user: alice.id, name: "ci", hash, limits: &limits, expires };
    let third = store.create_token(&actor(), new).await.unwrap();
    let all: Vec<TokenId> = store.tokens_of(alice.id).await.unwrap().into_iter().map(|token| token.id).collect();
    assert_eq!((all.len(), all[0]), (3, third.id), "newest first, dead ones included");
}

#[tokio::test]
async fn a_rotated_token_has_one_secret_and_a_revoked_one_cannot_be_rotated() {
    let (store, clock) = memory().await;
    let alice = user(&store, "alice").await;
    let (old, made) = token(&store, alice.id, "ci").await.unwrap();
    let new = AccessToken::generate();
    let rotated = store.rotate_token(&actor(), made.id, new.hash(), START.plus(DAY * 2)).await.unwrap();
    assert_eq!((rotated.id, rotated.expires), (made.id, START.plus(DAY * 2)));
    assert!(store.token_by_hash(&old.hash()).await.unwrap().is_none());
    assert!(store.token_by_hash(&new.hash()).await.unwrap().is_some());

    // An expired token may come back, but not beside another of its name.
    clock.advance(DAY * 3);
    let (_, other) = {
        let secret = AccessToken::generate();
        let (hash, limits, expires) = (secret.hash(), Limits::default(), START.plus(DAY * 9));
        let token = NewToken { user: alice.id, name: "ci", hash, limits: &limits, expires };
        (secret, store.create_token(&actor(), token).await.unwrap())
    };
    let hash = AccessToken::generate().hash();
    let back = store.rotate_token(&actor(), made.id, hash, START.plus(DAY * 9)).await;
    assert!(matches!(back, Err(Error::Exists(_))));
    store.revoke_token(&actor(), other.id).await.unwrap();
    store.revoke_token(&actor(), other.id).await.unwrap();
    assert!(matches!(store.rotate_token(&actor(), other.id, hash, START.plus(DAY * 9)).await, Err(Error::NotFound(_))));
    assert!(matches!(store.revoke_token(&actor(), TokenId(77)).await, Err(Error::NotFound(_))));
    assert_eq!(store.token(other.id).await.unwrap().unwrap().revoked, Some(START.plus(DAY * 3)));
}

#[tokio::test]
async fn the_last_use_of_a_token_never_moves_back() {
    let (store, _) = memory().await;
    let alice = user(&store, "alice").await;
    let (_, made) = token(&store, alice.id, "ci").await.unwrap();
    let before = store.revision().await.unwrap();
    for (at, expected) in [(5, 5), (9, 9), (7, 9)] {
        store.touch_tokens(&[(made.id, Timestamp(at)), (TokenId(99), Timestamp(at))]).await.unwrap();
        assert_eq!(store.token(made.id).await.unwrap().unwrap().last_used, Some(Timestamp(expected)));
    }
    assert_eq!(store.revision().await.unwrap(), before);
}

#[tokio::test]
async fn a_subject_has_one_grant_on_a_selector() {
    let (store, _) = memory().await;
    let alice = user(&store, "alice").await;
    let subject = Subject::User(alice.id);
    let read = grant(subject.clone(), ResourceKind::Experiment, "1", Permission::Read);
    let edit = Grant { permission: Permission::Edit, ..read.clone() };
    assert!(matches!(store.update_grant(&actor(), &edit).await, Err(Error::NotFound(_))));
    store.create_grant(&actor(), &read).await.unwrap();
    assert!(matches!(store.create_grant(&actor(), &edit).await, Err(Error::Exists(_))));
    store.update_grant(&actor(), &edit).await.unwrap();
    assert_eq!(store.grants_of(&subject).await.unwrap(), std::slice::from_ref(&edit));
    store.set_grant(&actor(), &read).await.unwrap();
    assert_eq!(store.grants_on(read.kind, &read.selector).await.unwrap(), std::slice::from_ref(&read));
    let dropped = store.delete_grant(&actor(), &subject, read.kind, &read.selector).await.unwrap();
    assert_eq!(dropped, Permission::Read);
    let again = store.delete_grant(&actor(), &subject, read.kind, &read.selector).await;
    assert!(matches!(again, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn every_subject_level_kind_and_selector_is_read_back_as_it_was_written() {
    let (store, _) = memory().await;
    let alice = user(&store, "alice").await;
    let mut written = Vec::new();
    for (number, kind) in ResourceKind::ALL.into_iter().enumerate() {
        for permission in Permission::ALL {
            let subject = Subject::Group(format!("/ml/{permission}"));
            written.push(grant(subject, kind, &number.to_string(), permission));
        }
    }
    let role = store.create_role(&actor(), "default", "analysts", None).await.unwrap();
    for subject in [Subject::User(alice.id), Subject::Role(role.id), Subject::Group("1".to_owned())] {
        for selector in [Selector::All, Selector::Glob("fraud-*".to_owned()), Selector::Exact("ä/'b".to_owned())] {
            let (kind, permission) = (ResourceKind::RegisteredModel, Permission::Use);
            written.push(Grant { subject: subject.clone(), kind, selector, permission });
        }
    }
    for grant in &written {
        store.create_grant(&actor(), grant).await.unwrap();
    }
    let read = store.grants().await.unwrap();
    assert_eq!(read.len(), written.len());
    assert!(written.iter().all(|grant| read.contains(grant)));
    assert_eq!(store.grants_of(&Subject::User(alice.id)).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_role_gives_its_members_what_it_was_granted_until_either_ends() {
    let (store, _) = memory().await;
    let (alice, bob) = (user(&store, "alice").await, user(&store, "bob").await);
    let role = store.create_role(&actor(), "default", "analysts", Some("they look")).await.unwrap();
    let elsewhere = store.create_role(&actor(), "team", "analysts", None).await.unwrap();
    let edit = grant(Subject::Role(role.id), ResourceKind::Experiment, "1", Permission::Edit);
    let other = grant(Subject::Role(elsewhere.id), ResourceKind::Experiment, "2", Permission::Manage);
    let number = store.create_grant(&actor(), &edit).await.unwrap();
    store.create_grant(&actor(), &other).await.unwrap();
    let made = store.assign_role(&actor(), alice.id, role.id).await.unwrap();
    store.assign_role(&actor(), alice.id, elsewhere.id).await.unwrap();
    assert!(matches!(store.assign_role(&actor(), alice.id, role.id).await, Err(Error::Exists(_))));

    let all = held(&store, alice.id, &[]).await;
    assert_eq!(all.level(&Resource::new(ResourceKind::Experiment, "1")), Some(Permission::Edit));
    assert_eq!(all.level(&Resource::new(ResourceKind::Experiment, "2")), None, "what is elsewhere is not given");
    assert!(all.is_member("default") && all.is_member("team") && !all.is_member("other"));
    assert_eq!(held(&store, bob.id, &[]).await.level(&Resource::new(ResourceKind::Experiment, "1")), None);

    let read = store.role(role.id).await.unwrap().unwrap();
    assert_eq!((read.name.as_str(), read.description.as_deref()), ("analysts", Some("they look")));
    assert_eq!(read.grants, [GrantRow { id: number, grant: edit.clone() }]);
    assert_eq!(store.grant_row(number).await.unwrap().unwrap().grant, edit);
    assert_eq!(store.roles().await.unwrap().first(), Some(&read));
    assert_eq!(store.role_by_name("default", "analysts").await.unwrap(), Some(read.clone()));
    assert_eq!(store.roles_of(alice.id).await.unwrap().len(), 2);
    assert_eq!(store.assignments_of(role.id).await.unwrap(), [made]);
    assert_eq!(store.assignments().await.unwrap().len(), 2);

    store.unassign_role(&actor(), alice.id, role.id).await.unwrap();
    assert!(matches!(store.unassign_role(&actor(), alice.id, role.id).await, Err(Error::NotFound(_))));
    assert_eq!(held(&store, alice.id, &[]).await.level(&Resource::new(ResourceKind::Experiment, "1")), None);
    store.assign_role(&actor(), bob.id, role.id).await.unwrap();
    store.delete_role(&actor(), role.id).await.unwrap();
    assert_eq!(held(&store, bob.id, &[]).await.level(&Resource::new(ResourceKind::Experiment, "1")), None);
    assert!(store.role(role.id).await.unwrap().is_none());
    assert!(!store.grants().await.unwrap().contains(&edit));
    assert!(matches!(store.create_grant(&actor(), &edit).await, Err(Error::NotFound(_))));
    store.delete_user(&actor(), alice.id).await.unwrap();
    assert!(store.assignments().await.unwrap().is_empty());
    let again = store.create_role(&actor(), "default", "analysts", None).await.unwrap();
    assert!(again.id > elsewhere.id, "a number is never given twice");
}

#[tokio::test]
async fn a_roles_name_is_taken_in_its_workspace_only() {
    let (store, _) = memory().await;
    let role = store.create_role(&actor(), "default", "a", None).await.unwrap();
    let other = store.create_role(&actor(), "default", "b", Some("second")).await.unwrap();
    store.create_role(&actor(), "team", "a", None).await.unwrap();
    assert!(matches!(store.create_role(&actor(), "default", "a", None).await, Err(Error::Exists(_))));
    assert!(matches!(store.update_role(&actor(), other.id, Some("a"), None).await, Err(Error::Exists(_))));
    store.update_role(&actor(), other.id, Some("c"), None).await.unwrap();
    store.update_role(&actor(), role.id, Some("a"), Some("first")).await.unwrap();
    let read = |role: Option<Role>| role.map(|role| (role.name, role.description));
    let described = |name: &str, text: &str| Some((name.to_owned(), Some(text.to_owned())));
    assert_eq!(read(store.role(other.id).await.unwrap()), described("c", "second"));
    assert_eq!(read(store.role(role.id).await.unwrap()), described("a", "first"));
    let nobody = RoleId(99);
    assert!(matches!(store.update_role(&actor(), nobody, Some("x"), None).await, Err(Error::NotFound(_))));
    assert!(matches!(store.delete_role(&actor(), nobody).await, Err(Error::NotFound(_))));
    assert!(matches!(store.assign_role(&actor(), UserId(99), role.id).await, Err(Error::NotFound(_))));
    let log = store.audit_log(2).await.unwrap();
    assert_eq!((log[0].action.as_str(), log[0].target.as_str()), ("role.update", "role:default/a"));
    assert_eq!((log[1].target.as_str(), log[1].detail.as_str()), ("role:default/b", "now `c`"));
}

#[tokio::test]
async fn a_model_called_star_does_not_make_its_creator_master_of_all_models() {
    let (store, _) = memory().await;
    let alice = user(&store, "alice").await;
    for name in ["*", "glob:*"] {
        let kind = ResourceKind::RegisteredModel;
        let intent = store.begin(&Mutation::Create { kind, name: name.to_owned() }, alice.id, &[]).await.unwrap();
        store.finish_create(&actor(), intent, kind, name, alice.id, &[]).await.unwrap();
    }
    let held: GrantSet = store.grants_of(&Subject::User(alice.id)).await.unwrap().into_iter().collect();
    assert_eq!(held.level(&Resource::new(ResourceKind::RegisteredModel, "*")), Some(Permission::Manage));
    assert_eq!(held.level(&Resource::new(ResourceKind::RegisteredModel, "fraud")), None);
}

#[tokio::test]
async fn a_creator_gets_manage_also_over_an_older_grant() {
    let (store, _) = memory().await;
    let alice = user(&store, "alice").await;
    let (kind, subject) = (ResourceKind::RegisteredModel, Subject::User(alice.id));
    store.create_grant(&actor(), &grant(subject.clone(), kind, "fraud", Permission::Read)).await.unwrap();
    let mutation = Mutation::Create { kind, name: "fraud".to_owned() };
    let intent = store.begin(&mutation, alice.id, &[]).await.unwrap();
    assert_eq!(store.intents().await.unwrap()[0].mutation, mutation);
    store.finish_create(&actor(), intent, kind, "fraud", alice.id, &[]).await.unwrap();
    assert_eq!(store.grants_of(&subject).await.unwrap(), [grant(subject, kind, "fraud", Permission::Manage)]);
    assert!(store.intents().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_effect_that_is_not_finished_is_overdue_after_five_minutes() {
    let (store, clock) = memory().await;
    let alice = user(&store, "alice").await;
    let kind = ResourceKind::RegisteredModel;
    let intent = store.begin(&Mutation::Create { kind, name: "fraud".to_owned() }, alice.id, &[]).await.unwrap();
    clock.advance(Duration::from_mins(5));
    assert_eq!(store.size().await.unwrap().overdue_intents, 0);
    clock.advance(Duration::from_millis(1));
    assert_eq!(store.size().await.unwrap().overdue_intents, 1);
    store.finish_create(&actor(), intent, kind, "fraud", alice.id, &[]).await.unwrap();
    assert_eq!(store.size().await.unwrap().overdue_intents, 0);
}

/// The levels that groups hold on one resource after alice created it.
async fn after_creation(kind: ResourceKind, key: &str, before: &[Grant]) -> Vec<Grant> {
    let (store, clock) = memory().await;
    let alice = user(&store, "alice").await;
    for grant in before {
        store.create_grant(&actor(), grant).await.unwrap();
    }
    clock.advance(Duration::from_millis(1));
    let intent = store.begin(&Mutation::Create { kind, name: "x".to_owned() }, alice.id, &[]).await.unwrap();
    let during = grant(Subject::Group("during".to_owned()), kind, key, Permission::Read);
    store.create_grant(&actor(), &during).await.unwrap();
    store.finish_create(&actor(), intent, kind, key, alice.id, &[]).await.unwrap();
    let mine = Subject::User(alice.id);
    let left = store.grants().await.unwrap();
    assert!(left.contains(&grant(mine.clone(), kind, key, Permission::Manage)), "{left:?}");
    left.into_iter().filter(|grant| grant.subject != mine && *grant != during).collect()
}

#[tokio::test]
async fn creating_an_experiment_drops_every_older_grant_on_its_id_and_its_scorers() {
    let kind = ResourceKind::Experiment;
    let group = |kind, key: &str, permission| grant(Subject::Group("g".to_owned()), kind, key, permission);
    let stays = [
        group(kind, "1", Permission::Read),
        group(kind, "121", Permission::Read),
        group(ResourceKind::RegisteredModel, "12", Permission::Read),
        group(ResourceKind::Scorer, "121/judge", Permission::Manage),
    ];
    for goes in [
        group(kind, "12", Permission::Manage),
        group(kind, "12", Permission::Deny),
        group(ResourceKind::Scorer, "12/judge", Permission::Manage),
    ] {
        let mut before = stays.to_vec();
        before.push(goes);
        let left = after_creation(kind, "12", &before).await;
        assert_eq!(left.len(), stays.len());
        assert!(stays.iter().all(|grant| left.contains(grant)), "{left:?}");
    }
}

#[tokio::test]
async fn creating_a_model_drops_older_grants_on_its_name_except_refusals() {
    let kind = ResourceKind::RegisteredModel;
    let group = |name: &str, kind, key: &str, permission| grant(Subject::Group(name.to_owned()), kind, key, permission);
    let refused = group("refused", kind, "fraud", Permission::Deny);
    let all = Grant { selector: Selector::All, ..group("g", kind, "", Permission::Read) };
    let before = [
        group("g", kind, "fraud", Permission::Manage),
        group("g", ResourceKind::Prompt, "fraud", Permission::Read),
        refused.clone(),
        all.clone(),
    ];
    let left = after_creation(kind, "fraud", &before).await;
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.contains(&refused) && left.contains(&all));
}

#[tokio::test]
async fn a_creator_whose_account_is_gone_leaves_neither_grant_nor_intent() {
    let (store, _) = memory().await;
    let alice = user(&store, "alice").await;
    let kind = ResourceKind::Experiment;
    let intent = store.begin(&Mutation::Create { kind, name: "x".to_owned() }, alice.id, &[]).await.unwrap();
    store.delete_user(&actor(), alice.id).await.unwrap();
    store.finish_create(&actor(), intent, kind, "12", alice.id, &[]).await.unwrap();
    assert!(store.grants().await.unwrap().is_empty());
    assert!(store.intents().await.unwrap().is_empty());
}

#[tokio::test]
async fn deleting_a_thing_drops_everybodys_exact_grants_on_it_and_no_others() {
    let (store, _) = memory().await;
    let kind = ResourceKind::RegisteredModel;
    let group = |name: &str| Subject::Group(name.to_owned());
    let stays = [
        grant(group("a"), kind, "fraud2", Permission::Read),
        grant(group("a"), ResourceKind::Scorer, "fraud", Permission::Read),
        Grant { subject: group("a"), kind, selector: Selector::Glob("fraud".to_owned()), permission: Permission::Read },
        Grant { subject: group("a"), kind, selector: Selector::All, permission: Permission::Read },
    ];
    for grant in &stays {
        store.create_grant(&actor(), grant).await.unwrap();
    }
    for name in ["a", "b"] {
        store.create_grant(&actor(), &grant(group(name), kind, "fraud", Permission::Edit)).await.unwrap();
    }
    // A name is a model or a prompt, and may have been the other before.
    let as_prompt = grant(group("a"), ResourceKind::Prompt, "fraud", Permission::Read);
    store.create_grant(&actor(), &as_prompt).await.unwrap();
    let intent = store.begin(&Mutation::Delete { kind, key: "fraud".to_owned() }, UserId(1), &[]).await.unwrap();
    store.finish_drop(&actor(), intent, kind, "fraud").await.unwrap();
    let left = store.grants().await.unwrap();
    assert_eq!(left.len(), stays.len());
    assert!(stays.iter().all(|grant| left.contains(grant)));
    assert!(store.intents().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_rename_moves_grants_and_drops_older_ones_at_the_new_name() {
    let (store, clock) = memory().await;
    let kind = ResourceKind::RegisteredModel;
    let group = |name: &str| Subject::Group(name.to_owned());
    for (name, key, permission) in [
        ("a", "old", Permission::Manage),
        ("a", "new", Permission::Read),
        ("b", "old", Permission::Deny),
        ("c", "new", Permission::Edit),
        ("e", "new", Permission::Deny),
        ("d", "older", Permission::Edit),
    ] {
        store.create_grant(&actor(), &grant(group(name), kind, key, permission)).await.unwrap();
    }
    clock.advance(Duration::from_millis(1));
    let mutation = Mutation::Rename { kind, from: "old".to_owned(), to: "new".to_owned() };
    let intent = store.begin(&mutation, UserId(1), &[]).await.unwrap();
    assert_eq!(store.intents().await.unwrap()[0].mutation, mutation);
    store.finish_rename(&actor(), intent, kind, "old", "new").await.unwrap();
    assert_eq!(
        store.grants().await.unwrap(),
        [
            grant(group("a"), kind, "new", Permission::Manage),
            grant(group("b"), kind, "new", Permission::Deny),
            grant(group("e"), kind, "new", Permission::Deny),
            grant(group("d"), kind, "older", Permission::Edit),
        ]
    );
    let intent = store.begin(&mutation, UserId(1), &[]).await.unwrap();
    store.finish_rename(&actor(), intent, kind, "new", "new").await.unwrap();
    assert_eq!(store.grants().await.unwrap().len(), 4, "renaming to the same name loses nothing");
    assert!(store.intents().await.unwrap().is_empty());
}

#[tokio::test]
async fn every_change_is_written_down_and_raises_the_revision() {
    let (store, _) = memory().await;
    let before = store.revision().await.unwrap();
    let alice = user(&store, "alice").await;
    assert_eq!(store.revision().await.unwrap(), before + 1);
    let (_, made) = token(&store, alice.id, "ci").await.unwrap();
    store.set_password(&actor(), alice.id, &PasswordHash("$secret$".to_owned()), AccessTokens::Keep).await.unwrap();
    let grant = grant(Subject::User(alice.id), ResourceKind::Experiment, "12", Permission::Edit);
    store.set_grant(&actor(), &grant).await.unwrap();
    store.revoke_token(&actor(), made.id).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), before + 5);

    let log = store.audit_log(100).await.unwrap();
    let words: Vec<(&str, &str)> = log.iter().map(|entry| (entry.action.as_str(), entry.target.as_str())).collect();
    let token = format!("token:{}", made.id);
    assert_eq!(
        words,
        [
            ("token.revoke", token.as_str()),
            ("grant.set", "experiment:12"),
            ("user.password", "user:alice"),
            ("token.create", token.as_str()),
            ("user.create", "user:alice"),
        ]
    );
    let entry = &log[1];
    assert_eq!((entry.at, entry.detail.as_str()), (START, "user:alice: EDIT"));
    assert_eq!((&entry.actor.name, entry.actor.token), (&"root".to_owned(), Some(TokenId(9))));
    assert_eq!(entry.actor.address, actor().address);
    assert!(!format!("{log:?}").contains("$secret$"));
    assert_eq!(store.audit_log(2).await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_was_refused_is_neither_written_down_nor_raises_the_revision() {
    let (store, _) = memory().await;
    let root = store.create_user(&actor(), "root", None, true).await.unwrap();
    let before = (store.revision().await.unwrap(), store.audit_log(100).await.unwrap().len());
    assert!(store.create_user(&actor(), "root", None, true).await.is_err());
    assert!(store.delete_user(&actor(), root.id).await.is_err());
    assert!(store.revoke_token(&actor(), TokenId(1)).await.is_err());
    assert_eq!((store.revision().await.unwrap(), store.audit_log(100).await.unwrap().len()), before);
}

#[tokio::test]
async fn a_change_that_cannot_be_written_down_does_not_happen() {
    let (store, _) = memory().await;
    let alice = user(&store, "alice").await;
    let before = store.revision().await.unwrap();
    sql("ALTER TABLE audit RENAME TO lost").execute(&store.writer).await.unwrap();
    assert!(matches!(store.set_admin(&actor(), alice.id, true).await, Err(Error::Unavailable(_))));
    assert!(!store.user(alice.id).await.unwrap().unwrap().admin);
    assert_eq!(store.revision().await.unwrap(), before);
}

#[tokio::test]
async fn refused_requests_can_be_written_down_without_a_change() {
    let (store, _) = memory().await;
    let before = store.revision().await.unwrap();
    let entry = |action: &str| AuditEntry {
        at: START,
        actor: Actor { name: "alice".to_owned(), token: None, address: Some("2001:db8::1".parse().unwrap()) },
        action: action.to_owned(),
        target: "experiment:1".to_owned(),
        detail: String::new(),
        count: 1,
    };
    store.audit(&[entry("first"), entry("second")], &[]).await.unwrap();
    let log = store.audit_log(10).await.unwrap();
    assert_eq!((log[0].action.as_str(), log[1].action.as_str()), ("second", "first"));
    assert_eq!(log[0].actor.address, Some("2001:db8::1".parse().unwrap()));
    let rows = store.audit(&[entry("third")], &[]).await.unwrap();
    assert_eq!(store.audit(&[], &[(rows[0], 12)]).await.unwrap(), []);
    assert_eq!(store.audit_log(1).await.unwrap()[0].count, 12);
    assert_eq!(store.size().await.unwrap().audit_rows, 3);
    assert_eq!(store.revision().await.unwrap(), before);
}

#[tokio::test]
async fn a_change_whose_request_was_cancelled_is_undone_and_blocks_nobody() {
    let (store, _) = memory().await;
    let before = store.revision().await.unwrap();
    drop(store.change().await.unwrap());
    assert_eq!(store.revision().await.unwrap(), before);
    user(&store, "alice").await;
}

#[tokio::test]
async fn a_row_that_is_not_understood_is_corrupt_and_not_a_default() {
    let (store, _) = memory().await;
    let alice = user(&store, "alice").await;
    let (secret, _) = token(&store, alice.id, "ci").await.unwrap();
    store
        .create_grant(&actor(), &grant(Subject::User(alice.id), ResourceKind::Experiment, "1", Permission::Read))
        .await
        .unwrap();
    for (break_it, scopes) in
        [("UPDATE tokens SET scopes = '[\"everything\"]'", true), ("UPDATE grants SET permission = 'ALL'", false)]
    {
        sql(break_it).execute(&store.writer).await.unwrap();
        if scopes {
            assert!(matches!(store.token_by_hash(&secret.hash()).await, Err(Error::Corrupt(_))));
        } else {
            assert!(matches!(store.grants().await, Err(Error::Corrupt(_))));
        }
    }
}

/// What somebody in these groups holds, without any policy.
async fn held(store: &Store, user: UserId, groups: &[&str]) -> GrantSet {
    let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
    let standing = store.standing_of(user, &groups).await.unwrap();
    standing.grants(&PolicyFile::default(), &standing.member("somebody", Home::default(), &groups))
}

#[tokio::test]
async fn a_group_gives_its_members_what_it_was_granted_and_so_do_those_above_it() {
    let (store, _) = memory().await;
    let alice = user(&store, "alice").await;
    let to = |group: &str, key: &str, permission| {
        grant(Subject::Group(group.to_owned()), ResourceKind::Experiment, key, permission)
    };
    for grant in [
        to("/ml/a", "1", Permission::Edit),
        to("/ml/**", "2", Permission::Read),
        to("/**", "3", Permission::Read),
        to("/ml", "4", Permission::Read),
        to("/mlx/**", "5", Permission::Read),
        to("/ml/**", "1", Permission::Deny),
    ] {
        store.create_grant(&actor(), &grant).await.unwrap();
    }
    let level = |held: &GrantSet, key: &str| held.level(&Resource::new(ResourceKind::Experiment, key));
    let member = held(&store, alice.id, &["/ml/a", "/other"]).await;
    let found: Vec<_> = ["1", "2", "3", "4", "5"].map(|key| level(&member, key)).into();
    let read = Some(Permission::Read);
    assert_eq!(found, [Some(Permission::Deny), read, read, None, None], "a refusal to a group above wins");
    assert!(!member.is_member("default"), "a group is no membership of a workspace");
    let nobody = held(&store, alice.id, &[]).await;
    assert!(["1", "2", "3", "4", "5"].iter().all(|key| level(&nobody, key).is_none()));
    // Far more groups than one statement takes.
    let many: Vec<String> = (0..100).map(|n| format!("/g/{n}")).chain(["/ml/a".to_owned()]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(level(&held(&store, alice.id, &many).await, "2"), read);
}

#[tokio::test]
async fn what_is_made_is_shared_along_and_no_grant_that_exists_is_changed() {
    let (store, _) = memory().await;
    let (alice, bob) = (user(&store, "alice").await, user(&store, "bob").await);
    let role = store.create_role(&actor(), "default", "team", None).await.unwrap();
    let policy = "[[on_create]]\nby = { user = \"alice\" }\nkinds = [\"experiment\"]\npermission = \"EDIT\"\nto = ";
    let policy: String = ["{ group = \"/ml\" }", "{ user = \"bob\" }", "{ role = \"team\" }", "{ user = \"nobody\" }"]
        .map(|to| format!("{policy}{to}\n"))
        .concat();
    let policy = PolicyFile::parse(&policy).unwrap();
    let kind = ResourceKind::Experiment;
    store.create_grant(&actor(), &grant(Subject::User(bob.id), kind, "12", Permission::Deny)).await.unwrap();
    let intent = store.begin(&Mutation::Create { kind, name: "x".to_owned() }, alice.id, &[]).await.unwrap();
    let member = crate::authz::Member { name: "alice", ..Default::default() };
    let shared: Vec<_> = policy.on_create(kind, &member).cloned().collect();
    store.finish_create(&actor(), intent, kind, "12", alice.id, &shared).await.unwrap();
    let on = store.grants_on(kind, &Selector::Exact("12".to_owned())).await.unwrap();
    let level = |subject: Subject| on.iter().find(|grant| grant.subject == subject).map(|grant| grant.permission);
    assert_eq!(level(Subject::User(alice.id)), Some(Permission::Manage));
    assert_eq!(level(Subject::Group("/ml".to_owned())), Some(Permission::Edit));
    assert_eq!(level(Subject::Role(role.id)), Some(Permission::Edit));
    assert_eq!(level(Subject::User(bob.id)), Some(Permission::Deny), "what is there stays");
    assert_eq!(on.len(), 4);
    assert!(store.intents().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_providers_list_is_followed_and_makes_and_wakes_nobody() {
    let (store, clock) = memory().await;
    let said = |groups: &'static [String], allowed| Seen {
        issuer: "https://id.example",
        subject: "s-1",
        name: "ann",
        groups,
        admin: false,
        allowed,
        owns_plain_names: true,
    };
    let groups: &'static [String] = Box::leak(Box::new(["/a".to_owned()]));
    let user = store.meet(&actor(), said(&[], true), Occasion::SignIn).await.unwrap();
    store.suspend(&actor(), user.id, "logout").await.unwrap();
    let before = clock.now();
    clock.advance(Duration::from_secs(10));
    let person = async || store.user(user.id).await.unwrap().unwrap().person.unwrap();
    store.follow(&actor(), &user, said(groups, true), clock.now()).await.unwrap();
    assert_eq!((person().await.groups.as_slice(), person().await.suspended), (groups, Some(before)));

    // Asked before the provider was heard of last.
    store.follow(&actor(), &user, said(&[], false), before).await.unwrap();
    store.disallow(&actor(), &user, before, "old news").await.unwrap();
    assert_eq!((person().await.groups.as_slice(), person().await.allowed), (groups, true));
    store.disallow(&actor(), &user, clock.now(), "disabled").await.unwrap();
    assert_eq!((person().await.groups.as_slice(), person().await.allowed), (groups, false));

    let revision = store.revision().await.unwrap();
    let user = store.user(user.id).await.unwrap().unwrap();
    clock.advance(Duration::from_mins(5));
    store.disallow(&actor(), &user, clock.now(), "disabled").await.unwrap();
    store.follow(&actor(), &user, said(groups, false), clock.now()).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), revision, "nothing new, nobody is loaded again");
    assert_eq!(person().await.seen, clock.now());

    store.delete_user(&actor(), user.id).await.unwrap();
    store.follow(&actor(), &user, said(&[], true), clock.now()).await.unwrap();
    store.disallow(&actor(), &user, clock.now(), "disabled").await.unwrap();
    assert!(store.users().await.unwrap().is_empty());
}

fn of<'s>(issuer: &'s str, subject: &'s str, name: &'s str, owns_plain_names: bool) -> Seen<'s> {
    Seen { issuer, subject, name, groups: &[], admin: false, allowed: true, owns_plain_names }
}

#[tokio::test]
async fn a_name_stays_its_identitys_until_it_is_released() {
    let (store, _) = memory().await;
    let (first, second) = ("https://first", "https://second");
    let ceo = store.meet(&actor(), of(first, "1", "ceo", true), Occasion::SignIn).await.unwrap();
    store.delete_user(&actor(), ceo.id).await.unwrap();
    let refused = async |seen| store.meet(&actor(), seen, Occasion::SignIn).await;
    for other in [of(first, "2", "ceo", true), of(second, "1", "ceo", false), of(first, "2", "CEO", true)] {
        assert!(matches!(refused(other).await, Err(Error::Reserved(_))), "{other:?}");
    }
    assert!(matches!(store.create_user(&actor(), "Ceo", None, false).await, Err(Error::Reserved(_))));
    // A rename to a reserved name is not made either.
    let bob = store.meet(&actor(), of(first, "3", "bob", true), Occasion::SignIn).await.unwrap();
    let bob = store.meet(&actor(), of(first, "3", "ceo", true), Occasion::SignIn).await.map(|user| (bob.id, user));
    assert_eq!(bob.map(|(id, user)| (user.id == id, user.name)).unwrap(), (true, "bob".to_owned()));
    // The identity itself comes back to its name.
    assert_eq!(store.meet(&actor(), of(first, "1", "ceo", true), Occasion::SignIn).await.unwrap().name, "ceo");
    assert!(store.reserved_names().await.unwrap().is_empty());
    // A renamed person's old name waits for them.
    store.meet(&actor(), of(first, "1", "chair", true), Occasion::SignIn).await.unwrap();
    assert!(matches!(refused(of(first, "4", "ceo", true)).await, Err(Error::Reserved(_))));
    let kept = store.reserved_names().await.unwrap();
    assert_eq!(kept[0].identity, Some((first.to_owned(), "1".to_owned())));
    store.release_name(&actor(), "CEO").await.unwrap();
    assert!(matches!(store.release_name(&actor(), "ceo").await, Err(Error::NotFound(_))));
    assert_eq!(refused(of(first, "4", "ceo", true)).await.unwrap().name, "ceo");
    // A local account's name is free again.
    let local = user(&store, "local").await;
    store.delete_user(&actor(), local.id).await.unwrap();
    assert!(matches!(store.create_user(&actor(), "local", None, false).await, Err(Error::Reserved(_))));
}

#[tokio::test]
async fn a_person_of_another_provider_gives_a_plain_name_back_and_keeps_the_account() {
    let (store, _) = memory().await;
    let (first, second) = ("https://first", "https://second");
    let early = store.meet(&actor(), of(second, "1", "ceo", false), Occasion::SignIn).await.unwrap();
    let right = store.meet(&actor(), of(first, "1", "ceo", true), Occasion::SignIn).await.unwrap();
    assert_eq!((right.name.as_str(), right.id == early.id), ("ceo", false));
    let revision = store.revision().await.unwrap();
    let early = store.meet(&actor(), of(second, "1", "ceo", false), Occasion::SignIn).await.unwrap();
    assert_eq!(early.name, format!("ceo~{}", early.id));
    assert_eq!((early.name_at_provider(), right.name_at_provider()), ("ceo", "ceo"));
    assert_eq!(store.revision().await.unwrap(), revision, "nothing is new");
    let taken = async |seen| store.meet(&actor(), seen, Occasion::SignIn).await;
    assert!(matches!(taken(of(second, "2", "ceo", false)).await, Err(Error::NameTaken(_))));
    assert!(matches!(taken(of(first, "2", "ceo", true)).await, Err(Error::NameTaken(_))), "of the same provider");
    // Nor when the name is free: rules about the second provider's `ceo` mean the one who had it.
    store.delete_user(&actor(), right.id).await.unwrap();
    store.release_name(&actor(), "ceo").await.unwrap();
    for name in ["ceo", "CEO"] {
        assert!(matches!(taken(of(second, "2", name, false)).await, Err(Error::NameTaken(_))));
    }
    assert_eq!(taken(of(first, "6", "ceo", true)).await.unwrap().name, "ceo");
    // A program and a local account with a password keep their names.
    store.meet(&actor(), of(second, "machine:ci", "ci", false), Occasion::Refresh).await.unwrap();
    assert!(matches!(taken(of(first, "3", "ci", true)).await, Err(Error::NameTaken(_))));
    let hash = PasswordHash("x".to_owned());
    store.create_user(&actor(), "root", Some(&hash), true).await.unwrap();
    assert!(matches!(taken(of(first, "4", "root", true)).await, Err(Error::NameTaken(_))));
    // An account that waits does so for people of the first provider.
    store.create_user(&actor(), "dan", None, false).await.unwrap();
    assert!(matches!(taken(of(second, "5", "dan", false)).await, Err(Error::NameTaken(_))));
    assert_eq!(taken(of(first, "5", "dan", true)).await.unwrap().name, "dan");
}

/// A store with five entries, a second apart.
async fn audited() -> Store {
    let (store, _) = memory().await;
    let rows = [
        ("alice", Some("192.0.2.1"), "token.create", "token:1", "`ci` of alice"),
        (
            "alice",
            Some("192.0.2.1"),
            "request.denied",
            "GetRun",
            "Permission denied. READ on experiment `12` is required.",
        ),
        ("alice", Some("2001:db8::1"), "login.failed", "keycloak", "denied"),
        ("command-line", None, "grant.set", "experiment:12", "user:alice: READ"),
        (
            "bob",
            Some("192.0.2.1"),
            "request.denied",
            "DeleteRun",
            "Permission denied. MANAGE on experiment `1` is required.",
        ),
    ];
    let entry = |(row, second): ((&str, Option<&str>, &str, &str, &str), i64)| AuditEntry {
        at: Timestamp(START.0 + second * 1000),
        actor: Actor { name: row.0.to_owned(), token: None, address: row.1.map(|address| address.parse().unwrap()) },
        action: row.2.to_owned(),
        target: row.3.to_owned(),
        detail: row.4.to_owned(),
        count: 1,
    };
    let entries: Vec<AuditEntry> = rows.into_iter().zip(0..).map(entry).collect();
    store.audit(&entries, &[]).await.unwrap();
    store
}

#[tokio::test]
async fn each_condition_selects_its_entries() {
    let store = audited().await;
    let any = AuditFilter::default;
    let text = |text: &str| Some(text.to_owned());
    let expected: [(AuditFilter, &[i64]); 16] = [
        (any(), &[4, 3, 2, 1, 0]),
        (AuditFilter { actor: text("alice"), ..any() }, &[2, 1, 0]),
        (AuditFilter { actor: text("Alice"), ..any() }, &[]),
        (AuditFilter { action: text("token.create"), ..any() }, &[0]),
        (AuditFilter { action: text("token"), ..any() }, &[0]),
        (AuditFilter { action: text("tok%"), ..any() }, &[]),
        (AuditFilter { action: text("request"), ..any() }, &[4, 1]),
        (AuditFilter { outcome: Some(AuditOutcome::Denied), ..any() }, &[4, 2, 1]),
        (AuditFilter { outcome: Some(AuditOutcome::Changed), ..any() }, &[3, 0]),
        (AuditFilter { operation: text("GetRun"), ..any() }, &[1]),
        (AuditFilter { operation: text("experiment:12"), ..any() }, &[]),
        (AuditFilter { target: text("experiment:12"), ..any() }, &[3]),
        (AuditFilter { target: text("experiment:12"), denied_on: text("experiment `12`"), ..any() }, &[3, 1]),
        (AuditFilter { target: text("x"), denied_on: text("experiment `1_`"), ..any() }, &[]),
        (AuditFilter { address: Some("2001:db8::1".parse().unwrap()), ..any() }, &[2]),
        (
            AuditFilter { since: Some(Timestamp(START.0 + 1000)), until: Some(Timestamp(START.0 + 3000)), ..any() },
            &[2, 1],
        ),
    ];
    for (filter, seconds) in expected {
        let found = store.audit_search(&filter, 100).await.unwrap();
        let found: Vec<i64> = found.iter().map(|entry| (entry.at.0 - START.0) / 1000).collect();
        assert_eq!(found, seconds, "{filter:?}");
    }
}

#[tokio::test]
async fn all_conditions_must_hold_and_the_newest_come_first() {
    let store = audited().await;
    let filter = AuditFilter {
        actor: Some("alice".to_owned()),
        outcome: Some(AuditOutcome::Denied),
        address: Some("192.0.2.1".parse().unwrap()),
        ..AuditFilter::default()
    };
    let found = store.audit_search(&filter, 100).await.unwrap();
    assert_eq!(found.iter().map(|entry| entry.target.as_str()).collect::<Vec<_>>(), ["GetRun"]);
    let newest = store.audit_search(&AuditFilter::default(), 1).await.unwrap();
    assert_eq!(newest[0].actor.name, "bob");
}

#[tokio::test]
async fn each_change_is_announced_with_what_it_affects() {
    let (store, _) = memory().await;
    let alice = user(&store, "alice").await;
    let role = store.create_role(&actor(), "default", "team", None).await.unwrap();
    let before = store.revision().await.unwrap();
    let since = async |revision| store.changes_since(revision).await.unwrap();
    assert_eq!(since(before).await, Changes { revision: before, scopes: Vec::new() });
    let read = |subject| grant(subject, ResourceKind::Experiment, "1", Permission::Read);
    let group = Subject::Group("/ml/\"a\": b".to_owned());
    store.set_grant(&actor(), &read(group)).await.unwrap();
    store.set_grant(&actor(), &read(Subject::Role(role.id))).await.unwrap();
    store.set_grant(&actor(), &read(Subject::User(alice.id))).await.unwrap();
    store.announce(Scope::Experiment("7".to_owned())).await.unwrap();
    let changed = since(before).await;
    assert_eq!(changed.revision, before + 4);
    let expected = [
        Scope::User(alice.id),
        Scope::Group("/ml/\"a\": b".to_owned()),
        Scope::Role(role.id),
        Scope::Experiment("7".to_owned()),
    ];
    assert_eq!(changed.scopes, expected);
    assert_eq!(since(before + 3).await.scopes, [Scope::Experiment("7".to_owned())]);
    // Unknown changes: a revision of another database, a version without scopes, and too long ago.
    let everything = Changes { revision: before + 4, scopes: vec![Scope::Everything] };
    assert_eq!(since(before + 9).await, everything);
    assert_eq!(since(i64::MIN).await, everything);
    sql("DELETE FROM changes WHERE revision = $1").bind(before + 2).execute(&store.writer).await.unwrap();
    assert_eq!(since(before).await, everything);
    sql("DELETE FROM changes").execute(&store.writer).await.unwrap();
    assert_eq!(since(before).await, everything);
    // A change that does not say what it affects.
    let change = store.change().await.unwrap();
    change.commit(&actor(), "test", String::new(), String::new()).await.unwrap();
    assert_eq!(since(before + 4).await.scopes, [Scope::Everything]);
}

#[tokio::test]
async fn text_with_nul_is_refused_and_found_nowhere() {
    let (store, _) = memory().await;
    let alice = user(&store, "alice").await;
    assert!(store.user_by_name("a\0").await.unwrap().is_none());
    let grant = grant(Subject::User(alice.id), ResourceKind::RegisteredModel, "a\0b", Permission::Read);
    assert!(matches!(store.set_grant(&actor(), &grant).await, Err(Error::Nul)));
    let entry = AuditEntry {
        at: START,
        actor: Actor { name: "a\0".to_owned(), token: None, address: None },
        action: "request.denied".to_owned(),
        target: "registered_model:a\0b".to_owned(),
        detail: "\0".to_owned(),
        count: 1,
    };
    store.audit(&[entry], &[]).await.unwrap();
    assert_eq!(store.audit_log(1).await.unwrap()[0].target, "registered_model:a\u{fffd}b");
}

#[tokio::test]
async fn names_are_ordered_by_their_bytes() {
    let (store, _) = memory().await;
    for name in ["b", "a", "Z", "~x", "_y", "\u{e4}"] {
        user(&store, name).await;
    }
    let names: Vec<_> = store.users().await.unwrap().into_iter().map(|user| user.name).collect();
    assert_eq!(names, ["Z", "_y", "a", "b", "~x", "\u{e4}"]);
}

#[tokio::test]
async fn the_audit_log_is_read_in_the_order_of_time_and_deleted_with_an_entry() {
    let (store, _) = memory().await;
    let entry = |at: i64, target: &str| AuditEntry {
        at: Timestamp(at),
        actor: actor(),
        action: "request.denied".to_owned(),
        target: target.to_owned(),
        detail: String::new(),
        count: 1,
    };
    let written = [entry(30, "d"), entry(10, "a"), entry(20, "b"), entry(20, "c"), entry(40, "e")];
    store.audit(&written, &[]).await.unwrap();
    let page = async |place, until| store.audit_page(place, Timestamp(until)).await.unwrap();
    let targets = |page: &[(AuditId, AuditEntry)]| page.iter().map(|(_, it)| it.target.clone()).collect::<String>();
    let all = page(AuditPlace::before(Timestamp(i64::MIN)), i64::MAX).await;
    assert_eq!(targets(&all), "abcde");
    assert_eq!(targets(&page(AuditPlace::before(Timestamp(20)), 40).await), "bcd");
    let (id, b) = &all[1];
    assert_eq!(targets(&page(AuditPlace::after(*id, b), 40).await), "cd");

    let revision = store.revision().await.unwrap();
    let mut deletion = AuditDeletion::of(Timestamp(1_000), ", exported".to_owned());
    store.delete_audit(&[all[0].0, all[1].0], &mut deletion).await.unwrap();
    store.delete_audit(&[all[1].0, all[2].0], &mut deletion).await.unwrap();
    assert_eq!(deletion.deleted, 3, "one was gone");
    let left = page(AuditPlace::before(Timestamp(i64::MIN)), i64::MAX).await;
    assert_eq!(targets(&left), "deaudit");
    let (_, last) = left.last().unwrap();
    assert_eq!((last.actor.name.as_str(), last.action.as_str()), ("proxy", "audit.delete"));
    assert_eq!(last.detail, "3 entries from before 1970-01-01T00:00:01Z, exported");
    assert_eq!(store.revision().await.unwrap(), revision);
}

#[tokio::test]
async fn what_cannot_be_indexed_is_refused_before_anything_is_changed() {
    let (store, _) = memory().await;
    let alice = user(&store, "alice").await;
    // Random, because databases compress what repeats.
    let long = |bytes: usize| {
        let text: String = std::iter::repeat_with(crate::crypto::random_text).take(bytes).collect();
        text.get(..bytes).unwrap().to_owned()
    };
    let kind = ResourceKind::RegisteredModel;
    let (fits, too_long) = (long(1024), long(1025));
    let grant_on = |subject, key: &str| grant(subject, kind, key, Permission::Manage);
    store.set_grant(&actor(), &grant_on(Subject::Group(fits.clone()), &fits)).await.unwrap();
    for refused in [grant_on(Subject::User(alice.id), &too_long), grant_on(Subject::Group(too_long.clone()), "m")] {
        assert!(matches!(store.set_grant(&actor(), &refused).await, Err(Error::TooLong(1025))));
        assert!(matches!(store.create_grant(&actor(), &refused).await, Err(Error::TooLong(1025))));
    }
    let create = |name: &str| Mutation::Create { kind, name: name.to_owned() };
    assert!(store.begin(&create(&fits), alice.id, &[]).await.is_ok());
    assert!(matches!(store.begin(&create(&too_long), alice.id, &[]).await, Err(Error::TooLong(1025))));
    let rename = Mutation::Rename { kind, from: "m".to_owned(), to: too_long };
    assert!(matches!(store.begin(&rename, alice.id, &[]).await, Err(Error::TooLong(1025))));
    assert_eq!(store.intents().await.unwrap().len(), 1);
}
