use super::*;

#[tokio::test]
async fn a_name_is_taken_until_its_turn_ends() {
    let turns = Turns::default();
    let taken = turns.take(&["b", "A", "a "]).await;
    assert_eq!(taken.len(), 2, "names that a database may not tell apart are one");
    assert!(turns.try_take(&["a"]).is_none());
    assert!(turns.try_take(&["c"]).is_some());
    drop(taken);
    assert_eq!(turns.try_take(&["a", "b"]).map(|taken| taken.len()), Some(2));
    for number in 0..1000 {
        drop(turns.take(&[number.to_string().as_str()]).await);
    }
    assert!(turns.0.lock().expect("a lock").len() < 100, "names that no task has are forgotten");
}

#[test]
fn a_skill_is_its_makers_when_its_first_version_made_it() {
    for (body, made) in [
        (r#"{"name":"a","organization":"","latest_version":null}"#, true),
        (r#"{"name":"a","version":1}"#, true),
        (r#"{"name":"a","version":2}"#, false),
        (r#"{"skill_versions":[{"name":"b","version":1},{"name":"a","version":1}]}"#, true),
        (r#"{"skill_versions":[{"name":"a","version":2}]}"#, false),
        (r#"{"skill_versions":[{"organization":"acme","name":"a","version":1}]}"#, false),
        ("", false),
    ] {
        assert_eq!(makes_skill("a", body.as_bytes()), made, "{body}");
    }
}
