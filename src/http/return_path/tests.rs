//! Ways to make a path that leads elsewhere: none of them leads anywhere but home.

use super::*;

const CORPUS: &str = include_str!("corpus.txt");

/// `\\t`, `\\n`, `\\r`, `\\0`, `\\\\` and `\\u{..}` as in Rust.
fn unescaped(line: &str) -> String {
    let (mut text, mut rest) = (String::new(), line);
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let (kind, after) = after.split_at(1);
        rest = after;
        match kind {
            "t" => text.push('\t'),
            "n" => text.push('\n'),
            "r" => text.push('\r'),
            "0" => text.push('\0'),
            "u" => {
                let (digits, after) = after.strip_prefix('{').unwrap().split_once('}').unwrap();
                text.push(char::from_u32(u32::from_str_radix(digits, 16).unwrap()).unwrap());
                rest = after;
            }
            other => text.push_str(other),
        }
    }
    text + rest
}

#[test]
fn no_way_to_write_another_place_leads_there() {
    let public = Url::parse("https://mlflow.example.com").unwrap();
    // A comment is `# ` and more; `#//evil` is a case.
    let cases: Vec<String> = CORPUS.lines().filter(|line| !line.starts_with("# ")).map(unescaped).collect();
    assert!(cases.len() >= 200, "{}", cases.len());
    for case in cases {
        let path = ReturnPath::parse_or("/", &case);
        assert_eq!(path.as_str(), "/", "{case:?}");
        assert_eq!(public.join(path.as_str()).unwrap().origin(), public.origin());
    }
}

#[test]
fn paths_of_ours_survive_with_query_and_fragment() {
    for path in [
        "/",
        "/?x=y",
        "/#/experiments/12/runs/0123456789abcdef",
        "/?workspace=default#/experiments/12?searchFilter=&orderByKey=attributes.start_time",
        "/mlflow/#/models/fraud%20model/versions/3",
        "/#/compare-runs?runs=[%22a%22,%22b%22]&experiments=[%221%22]",
        "/auth/account",
        "/get-artifact?path=a/b.txt&run_uuid=1",
        "/x?next=https://evil.example",
        "/#//evil.example",
        "/loginevil",
        "/auth/api/v1/me",
    ] {
        assert_eq!(ReturnPath::parse(path).map(|path| path.0).as_deref(), Some(path));
    }
    assert!(ReturnPath::parse(&format!("/{}", "a".repeat(1499))).is_some());
    assert!(ReturnPath::parse(&format!("/{}", "a".repeat(1500))).is_none(), "bounded");
}

/// Some letters are written as three: what is kept is what the state brings back, and that is read again.
#[test]
fn a_path_that_is_too_long_only_as_it_is_written_is_refused() {
    assert!(ReturnPath::parse(&format!("/{}", "}".repeat(499))).is_some());
    assert!(ReturnPath::parse(&format!("/{}", "}".repeat(500))).is_none());
}

proptest::proptest! {
    #[test]
    fn whatever_is_kept_is_of_the_same_origin_for_browsers(text in "[/\\\\a.%2fFeEcC5:@?# \t]{0,12}") {
        let public = Url::parse("https://mlflow.example.com").unwrap();
        if let Some(path) = ReturnPath::parse(&text) {
            let reached = public.join(path.as_str()).unwrap();
            proptest::prop_assert_eq!(reached.origin(), public.origin(), "{}", path.as_str());
            proptest::prop_assert!(path.as_str().starts_with('/') && !path.as_str().starts_with("//"));
            let again = ReturnPath::parse(path.as_str());
            proptest::prop_assert_eq!(again, Some(path));
        }
    }
}
