//! What people see in their browser: askama's templates, which escape every text, and the files that pages load.
//!
//! Nothing that a provider, a link or a token's name says becomes markup. Pages need no script but for copying.

use askama::Template;
use http::{HeaderMap, HeaderValue, header};

/// One way to sign in.
#[derive(Debug)]
pub(super) struct Choice<'p> {
    /// What the page calls the provider.
    pub(super) label: &'p str,
    pub(super) href: String,
}

/// The sign-in page.
#[derive(Debug, Template)]
#[template(path = "sign_in.html")]
pub(super) struct SignInPage<'p> {
    /// What stands before the paths of all pages: MLflow's static prefix. The same in every page.
    pub(super) base: &'p str,
    pub(super) choices: Vec<Choice<'p>>,
    /// Whether there is only this one way, so that the page goes on by itself.
    pub(super) at_once: bool,
    pub(super) password_form: bool,
    pub(super) return_to: &'p str,
    /// The user name of the last attempt.
    pub(super) username: &'p str,
    /// What was wrong with the last attempt.
    pub(super) wrong: Option<&'p str>,
}

#[derive(Debug, Template)]
#[template(path = "signed_out.html")]
struct SignedOut<'p> {
    base: &'p str,
}

#[derive(Debug, Template)]
#[template(path = "confirm_logout.html")]
struct ConfirmLogout<'p> {
    base: &'p str,
}

/// The page for somebody in none of the groups that may come in.
#[derive(Debug, Template)]
#[template(path = "denied.html")]
pub(super) struct DeniedPage<'p> {
    pub(super) base: &'p str,
    pub(super) name: &'p str,
    /// What the provider says that they are in.
    pub(super) groups: &'p [String],
    /// One of these would do.
    pub(super) allowed: &'p [String],
    /// Where to sign out at the provider, so as to come back as somebody else.
    pub(super) sign_out: Option<&'p str>,
}

/// The page for a request that is refused or failed.
#[derive(Debug, Template)]
#[template(path = "error.html")]
pub(super) struct ErrorPage<'p> {
    pub(super) base: &'p str,
    pub(super) heading: &'p str,
    pub(super) words: &'p str,
    /// Where MLflow's first page is.
    pub(super) home: &'p str,
    /// Whether to show the way to the sign-in page.
    pub(super) sign_in: bool,
    /// Whether to show the ways to the account page and to sign out.
    pub(super) account: bool,
    pub(super) sign_out: bool,
}

#[derive(Debug, Template)]
#[template(path = "sign_up.html")]
struct SignUp<'p> {
    base: &'p str,
    csrf_token: &'p str,
    username: &'p str,
    wrong: Option<&'p str>,
}

#[derive(Debug, Template)]
#[template(path = "signed_up.html")]
struct SignedUp<'p> {
    base: &'p str,
    username: &'p str,
}

/// One's own page.
#[derive(Debug, Template)]
#[template(path = "account.html")]
pub(super) struct AccountPage<'p> {
    pub(super) base: &'p str,
    pub(super) name: &'p str,
    pub(super) admin: bool,
    pub(super) scheme: &'static str,
    pub(super) groups: &'p [String],
    pub(super) tokens: Vec<TokenRow>,
    pub(super) sessions: Vec<SessionRow>,
    /// Whether there is a session beside this one.
    pub(super) has_others: bool,
    /// Whether this credential may make tokens and end sessions.
    pub(super) may_change: bool,
    /// In days.
    pub(super) expiries: Vec<u32>,
    /// Proves that a form is of this page.
    pub(super) form_token: String,
    /// What was wrong with the last form.
    pub(super) wrong: Option<String>,
    /// The outcome of the last form.
    pub(super) notice: Option<String>,
    /// The fields of a form that was refused.
    pub(super) form: TokenForm,
    /// Whether the account has a password that can be changed.
    pub(super) has_password: bool,
}

/// The fields of the form for a new access token.
#[derive(Debug)]
pub(super) struct TokenForm {
    pub(super) name: String,
    pub(super) expires_in_days: u32,
    pub(super) read_only: bool,
    pub(super) only: String,
}

impl Default for TokenForm {
    fn default() -> Self {
        Self { name: String::new(), expires_in_days: 90, read_only: false, only: String::new() }
    }
}

/// An access token in the list; all texts as they are shown.
#[derive(Debug)]
pub(super) struct TokenRow {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) scopes: String,
    pub(super) created: String,
    pub(super) expires: String,
    pub(super) last_used: String,
}

/// A session in the list; all texts as they are shown.
#[derive(Debug)]
pub(super) struct SessionRow {
    pub(super) id: i64,
    pub(super) browser: String,
    pub(super) address: String,
    pub(super) created: String,
    pub(super) last_used: String,
    pub(super) current: bool,
}

/// A token's secret, shown once.
#[derive(Debug, Template)]
#[template(path = "new_token.html")]
pub(super) struct NewTokenPage<'p> {
    pub(super) base: &'p str,
    pub(super) name: &'p str,
    pub(super) expires: String,
    pub(super) blocks: Vec<Block>,
}

/// Something to copy.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) text: String,
}

/// The page on which people choose how to sign in.
pub(super) fn sign_in(page: &SignInPage<'_>) -> String {
    rendered(page)
}

/// After signing out.
pub(super) fn signed_out(base: &str) -> String {
    rendered(&SignedOut { base })
}

/// Signing out is asked for.
pub(super) fn confirm_logout(base: &str) -> String {
    rendered(&ConfirmLogout { base })
}

/// Signed in at the provider, and in none of the groups that may come in.
pub(super) fn denied(page: &DeniedPage<'_>) -> String {
    rendered(page)
}

/// Something did not work.
pub(super) fn error(page: &ErrorPage<'_>) -> String {
    rendered(page)
}

/// MLflow's form for making accounts, perhaps with what was wrong with the last attempt.
pub(super) fn sign_up(base: &str, csrf_token: &str, username: &str, wrong: Option<&str>) -> String {
    rendered(&SignUp { base, csrf_token, username, wrong })
}

/// An account was made with it.
pub(super) fn signed_up(base: &str, username: &str) -> String {
    rendered(&SignedUp { base, username })
}

/// One's own page.
pub(super) fn account(page: &AccountPage<'_>) -> String {
    rendered(page)
}

/// A token's secret, shown once.
pub(super) fn new_token(page: &NewTokenPage<'_>) -> String {
    rendered(page)
}

/// A file that pages load, and what it is.
pub(super) fn asset(name: &str) -> Option<(&'static str, &'static str)> {
    match name {
        "icon.svg" => Some(("image/svg+xml", include_str!("icon.svg"))),
        "pages.js" => Some(("text/javascript; charset=utf-8", include_str!("pages.js"))),
        "style.css" => Some(("text/css; charset=utf-8", include_str!("style.css"))),
        _ => None,
    }
}

/// What keeps others from using a page. `actions`: origins beside ours at which its forms may end.
///
/// `same-origin` as referrer policy: without a referrer, browsers would send `Origin: null` along with our own forms.
pub(super) fn guard(headers: &mut HeaderMap, actions: &str) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; form-action 'self'{actions}; \
         frame-ancestors 'none'; base-uri 'none'"
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
}

/// Into memory, which fails only when a template itself says so, and none of ours does.
fn rendered(page: &impl Template) -> String {
    page.render().unwrap_or_else(|error| {
        tracing::error!(%error, "a page could not be written");
        String::new()
    })
}

#[cfg(test)]
mod tests;
