use super::*;

const READ: &str = "[[grants]]\nto = { user = \"*\" }\non = { experiment = \"*\" }\npermission = \"READ\"\n";
const DENY: &str = "[[grants]]\nto = { user = \"*\" }\non = { experiment = \"payroll\" }\npermission = \"DENY\"\n";

/// Feeds what each read finds, and expects the content to count at the last one.
#[track_caller]
fn counts_at_the_end(before: &str, reads: &[&str]) {
    let before = PolicyFile::parse(before).unwrap();
    let mut reads = reads.iter().map(|text| Ok((*text).to_owned()));
    let mut settling = Settling { last: reads.next().unwrap(), quiet: 0 };
    let over: Vec<bool> = reads.map(|read| settling.is_over(read, &before)).collect();
    let (last, earlier) = over.split_last().unwrap();
    assert!(*last && earlier.iter().all(|over| !over), "{over:?}");
}

#[test]
fn content_counts_once_it_stays_the_same() {
    let whole = format!("{READ}{DENY}");
    counts_at_the_end(READ, &[&whole, &whole]);
    counts_at_the_end(READ, &["", "[[gr", &whole, &whole]);
    counts_at_the_end(READ, &["[[gr", "[[gr"]);
}

#[test]
fn content_that_takes_rules_away_must_stay_longer() {
    let whole = format!("{READ}{DENY}");
    counts_at_the_end(&whole, &[READ, READ, READ, READ, &whole, &whole]);
    counts_at_the_end(&whole, &[READ, READ, READ, READ, READ, READ]);
    let as_many = format!("{READ}{READ}");
    counts_at_the_end(&whole, &[&as_many, &as_many, &as_many, &as_many, &as_many, &as_many]);
    let reordered = format!("{DENY}{READ}{READ}");
    counts_at_the_end(&whole, &[&reordered, &reordered]);
}

#[test]
fn a_file_without_rules_must_say_that_it_is_intended() {
    for lost in ["", "# nothing yet\n", "empty = false\n"] {
        let said = parse(&Ok(lost.to_owned()), &Homes::default()).unwrap_err();
        assert!(said[0].contains("`empty = true`"), "{said:?}");
    }
    assert_eq!(parse(&Ok("empty = true\n".to_owned()), &Homes::default()).unwrap().grants(), 0);
    assert!(parse(&Ok(format!("empty = true\n{READ}")), &Homes::default()).unwrap_err()[0].contains("has rules"));
}
