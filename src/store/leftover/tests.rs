use super::*;

/// A log of 4 transactions; the second one does not touch `meta`.
fn log() -> Log {
    Log { salts: [1; 8], ends: [4, 7], changes: vec![(1, 11), (4, 12), (7, 13)] }
}

#[test]
fn only_what_checkpoints_can_have_copied_is_legitimate() {
    let allowed = |reached| (5..20).filter(|value| log().allows(*value, Reached(reached))).collect::<Vec<i64>>();
    assert_eq!(allowed(0), [10]);
    assert_eq!(allowed(3), [10, 11]);
    assert_eq!(allowed(7), [10, 11, 12, 13]);
    assert_eq!(allowed(u32::MAX), [10, 11, 12, 13]);
}

/// The index with its header repeated.
fn twice(index: &[u8]) -> Vec<u8> {
    [&index[..48], &index[..48], &index[96..]].concat()
}

#[test]
fn an_index_counts_only_for_its_own_log() {
    let header: Vec<u8> = [0u32; 4].iter().chain(&[7, 3, 0, 0]).flat_map(|it| it.to_ne_bytes()).collect();
    let index = |salt: u8| {
        let half = [&header[..], &[salt; 8], &[0; 8]].concat();
        [&half[..], &half[..], &[0; 32], &6u32.to_ne_bytes(), &[0; 64]].concat()
    };
    assert_eq!(Reached::read(&index(1), &log()), Reached(6));
    let unknown = Reached(u32::MAX);
    assert_eq!(Reached::read(&index(2), &log()), unknown);
    assert_eq!(Reached::read(&[], &log()), unknown);
    let of_the_commit_before = [&index(1)[..16], &4u32.to_ne_bytes(), &index(1)[20..]].concat();
    assert_eq!(Reached::read(&twice(&of_the_commit_before), &log()), Reached(6));
    let stale = [&index(1)[..16], &2u32.to_ne_bytes(), &index(1)[20..]].concat();
    assert_eq!(Reached::read(&twice(&stale), &log()), unknown);
    let mut torn = index(1);
    torn[50] ^= 1;
    assert_eq!(Reached::read(&torn, &log()), unknown);
}

#[test]
fn what_is_no_log_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log");
    for bytes in [&b""[..], &[0; 31], &[0; 32], &[0xff; 100]] {
        fs::write(&file, bytes).unwrap();
        assert!(Log::read(&file, 2).unwrap().is_none());
    }
}
