use super::*;

#[test]
fn names_of_real_people_and_programs_are_accepted() {
    for name in [
        "alice",
        "ann.lee@example.org",
        "Zoë Müller",
        "Łukasz",
        "Ольга",
        "Νίκος",
        "山田太郎",
        "Tanaka 太郎",
        "김철수 kim",
        "محمد",
        "אברהם",
        "नरेंद्र",
        "สมชาย",
        "service-account-ci",
        "pipeline/main",
        "o'brien",
        "a_b+c",
        "2026",
        "名前@例え.jp",
        "\u{130}stanbul",
        "Dağıstanlı",
        "Nguyễn Thị Ánh",
        "\u{17c}aneta",
        "carn",
    ] {
        assert_eq!(check_account(name), Ok(()), "{name}");
    }
}

#[test]
fn deceptive_and_reserved_names_are_refused() {
    for name in [
        "",
        " a",
        "a ",
        "a\u{a0}b",
        "a\u{2003}b",
        "a:b",
        "a\nb",
        "a\u{7f}",
        "a\u{85}b",
        "ali\u{200b}ce",
        "ali\u{200d}ce",
        "a\u{ad}b",
        "\u{202e}ecila",
        "a\u{2066}b",
        "a\u{feff}",
        "a\u{34f}b",
        "a\u{fe0f}",
        "a\u{3164}b",
        "a\u{2800}b",
        "a\u{e0041}",
        "a\u{e000}",
        "a\u{378}",
        "a\u{2028}b",
        "\u{430}lice",
        "al\u{456}ce",
        "\u{3b1}lice",
        "alic\u{435}",
        "cafe\u{301}",
        "ali\u{307}ce",
        "al\u{131}\u{307}ce",
        "al\u{307}ice",
        "al\u{12f}\u{307}ce",
        "\u{456}\u{307}\u{440}",
        "ann\u{e9}\u{301}",
        "a\u{1ea5}\u{301}",
        "bo\u{331}\u{316}\u{317}\u{318}\u{319}b",
        "comrnand-line",
        "anonyrnous",
        "severa1",
        "\u{212a}im",
        "*",
        "..",
        ".",
        "-",
        "Proxy",
        "proxy",
        "command-line",
        "bootstrap",
        "a*",
        "a?",
        "\u{1d41a}lice",
        "\u{ff41}lice",
        "o\u{fb03}ce",
        "ceo~17",
    ] {
        assert!(check_account(name).is_err(), "{name:?}");
    }
    assert!(check_name(&"x".repeat(256)).is_err());
    // What only accounts must not be called.
    for name in ["*", "a:b", "proxy"] {
        assert_eq!(check_name(name), Ok(()), "{name}");
    }
}

#[test]
fn names_that_look_alike_are_told() {
    let alike = |one: &str, other: &str| Looks::of(one).are_like(&Looks::of(other));
    for (one, other) in [
        ("alice", "al\u{131}ce"),
        ("alice", "al\u{269}ce"),
        ("alice", "a1ice"),
        ("alice", "aIice"),
        ("modem", "modern"),
    ] {
        assert!(alike(one, other), "{one} {other}");
    }
    for (one, other) in [("alice", "alicia"), ("bob", "bobo"), ("zoë", "zoe"), ("user1", "user2"), ("ann", "Ann Lee")]
    {
        assert!(!alike(one, other), "{one} {other}");
    }
}

#[test]
fn what_is_shown_is_visibly_itself() {
    assert_eq!(plain("Zoë 山田 [x] \"y\" \\"), "Zoë 山田 [x] \"y\" \\");
    assert_eq!(plain("a\nb\t\u{1b}[31m"), "a\\nb\\t\\u{1b}[31m");
    assert_eq!(plain("a\u{202e}b\u{200b}\u{9b}\u{e0041}\u{2028}"), "a\\u{202e}b\\u{200b}\\u{9b}\\u{e0041}\\u{2028}");
    assert_eq!(plain_lines("a\nb\rc\u{2066}"), "a\nb\\rc\\u{2066}");
    let text = serde_json::to_string(&["a\u{202e}b\u{e0041}\u{9b}\u{7f}é"]).unwrap();
    let shown = plain_json(&text);
    assert_eq!(shown, "[\"a\\u202eb\\udb40\\udc41\\u009b\\u007fé\"]");
    assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), ["a\u{202e}b\u{e0041}\u{9b}\u{7f}é"]);
}
