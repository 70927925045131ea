use super::*;

const HOSTILE: &str = "<script>alert('1')</script>\"&";

#[test]
fn no_text_becomes_markup() {
    let pages = [
        sign_in(&SignInPage {
            base: "/x",
            choices: vec![Choice { label: HOSTILE, href: format!("/auth/login?{HOSTILE}") }],
            at_once: true,
            password_form: true,
            return_to: HOSTILE,
            username: HOSTILE,
            wrong: Some(HOSTILE),
        }),
        denied(&DeniedPage {
            base: "/x",
            name: HOSTILE,
            groups: &[HOSTILE.to_owned()],
            allowed: &[AllowedGroup::of(HOSTILE)],
            sign_out: Some(HOSTILE),
        }),
        error(&ErrorPage {
            base: "/x",
            heading: HOSTILE,
            words: HOSTILE,
            home: HOSTILE,
            sign_in: true,
            account: true,
            sign_out: true,
        }),
        signed_up("/x", HOSTILE),
        sign_up("/x", HOSTILE, HOSTILE, Some(HOSTILE)),
        new_token(&NewTokenPage {
            base: "/x",
            name: HOSTILE,
            expires: HOSTILE.to_owned(),
            blocks: vec![Block { id: "x", title: "x", text: HOSTILE.to_owned() }],
        }),
        account(&AccountPage {
            base: "/x",
            name: HOSTILE,
            admin: false,
            scheme: "x",
            groups: &[HOSTILE.to_owned()],
            tokens: vec![TokenRow {
                id: 1,
                name: HOSTILE.to_owned(),
                scopes: HOSTILE.to_owned(),
                created: String::new(),
                expires: String::new(),
                last_used: String::new(),
            }],
            sessions: vec![SessionRow {
                id: 1,
                browser: HOSTILE.to_owned(),
                address: HOSTILE.to_owned(),
                created: String::new(),
                last_used: String::new(),
                current: false,
            }],
            has_others: true,
            can_change: true,
            expiries: vec![90],
            form_token: HOSTILE.to_owned(),
            wrong: Some(HOSTILE.to_owned()),
            notice: Some(HOSTILE.to_owned()),
            form: TokenForm { name: HOSTILE.to_owned(), only: HOSTILE.to_owned(), ..TokenForm::default() },
            has_password: true,
        }),
    ];
    for page in pages {
        assert!(page.contains("&#60;script&#62;") || page.contains("&lt;script&gt;"), "{page}");
        assert!(!page.contains("<script>alert"), "{page}");
        assert!(!page.contains("\"&\""), "{page}");
    }
}

#[test]
fn pages_load_what_is_there() {
    for page in [signed_out(""), confirm_logout("/x"), sign_up("", "x", "", None)] {
        for (_, rest) in page.match_indices("/auth/static/").map(|(at, mark)| page.split_at(at + mark.len())) {
            let name = rest.split('"').next().unwrap();
            assert!(asset(name).is_some(), "{name}");
        }
    }
    assert!(asset("../mod.rs").is_none());
}
