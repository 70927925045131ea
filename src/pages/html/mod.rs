//! What people see in their browser.
//!
//! Every text that is put in is escaped; nothing that a provider or a link says becomes markup.

/// One way to sign in.
#[derive(Debug)]
pub(super) struct Choice<'p> {
    /// What the page calls the provider.
    pub(super) label: &'p str,
    pub(super) href: String,
}

/// The sign-in page.
#[derive(Debug)]
pub(super) struct SignInPage<'p> {
    pub(super) choices: Vec<Choice<'p>>,
    /// Whether there is only this one way, so that the page goes on by itself.
    pub(super) at_once: bool,
    pub(super) password_form: bool,
    pub(super) return_to: &'p str,
    /// What was wrong with the last try.
    pub(super) wrong: Option<&'p str>,
}

/// The page on which people choose how to sign in.
pub(super) fn sign_in(page: &SignInPage<'_>) -> String {
    let now = if page.at_once { "now" } else { "" };
    let links: String = page
        .choices
        .iter()
        .map(|it| {
            format!(
                "<p><a href=\"{}\" data-sign-in=\"{now}\">Sign in with {}</a></p>",
                escaped(&it.href),
                escaped(it.label)
            )
        })
        .collect();
    let wrong = page.wrong.map(|wrong| format!("<p role=\"alert\">{}</p>", escaped(wrong))).unwrap_or_default();
    let form = if page.password_form {
        format!(
            "<form method=\"post\" action=\"/auth/login\"><input type=\"hidden\" name=\"return_to\" value=\"{}\">\
             <label>User name <input name=\"username\" autocomplete=\"username\" required></label> \
             <label>Password <input name=\"password\" type=\"password\" autocomplete=\"current-password\" required></label> \
             <button>Sign in</button></form>",
            escaped(page.return_to)
        )
    } else {
        String::new()
    };
    document("Sign in", &format!("{wrong}{links}{form}<script src=\"/auth/static/sign-in.js\"></script>"))
}

/// After signing out.
pub(super) fn signed_out() -> String {
    document("Signed out", "<p>You are signed out.</p><p><a href=\"/auth/login\">Sign in again</a></p>")
}

/// Signing out is asked for.
pub(super) fn confirm_logout() -> String {
    document("Sign out", "<form method=\"post\" action=\"/auth/logout\"><button>Sign out</button></form>")
}

/// Signed in at the provider, and in none of the groups that may come in.
pub(super) fn denied(name: &str, allowed: &[String]) -> String {
    let groups: String = allowed.iter().map(|group| format!("<li><code>{}</code></li>", escaped(group))).collect();
    let words = format!(
        "<p>{} is signed in, but may not use MLflow here. That takes one of these groups:</p><ul>{groups}</ul>\
         <p>Ask whoever looks after the groups, then <a href=\"/auth/login\">sign in again</a>.</p>",
        escaped(name)
    );
    document("Access denied", &words)
}

/// Something did not work.
pub(super) fn error(heading: &str, words: &str) -> String {
    let words = format!("<p>{}</p><p><a href=\"/auth/login\">Sign in</a></p>", escaped(words));
    document(heading, &words)
}

/// A file that pages load, and what it is.
pub(super) fn asset(name: &str) -> Option<(&'static str, &'static str)> {
    (name == "sign-in.js").then_some(("text/javascript; charset=utf-8", SIGN_IN))
}

/// What stands behind `#` never reaches a server, so the page hands it on.
const SIGN_IN: &str = r#""use strict";
for (const link of document.querySelectorAll("a[data-sign-in]")) {
  const url = new URL(link.href);
  if (location.hash) url.searchParams.set("return_to", (url.searchParams.get("return_to") || "/") + location.hash);
  link.href = url.href;
  if (link.dataset.signIn === "now") location.replace(url.href);
}
for (const field of document.querySelectorAll("input[name=return_to]")) field.value += location.hash;
"#;

fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} - MLflow</title></head>\
         <body><main><h1>{title}</h1>{body}</main></body></html>"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
