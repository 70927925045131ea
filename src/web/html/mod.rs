//! HTML of the pages, from askama templates that escape every value, and the static files that pages load.
//!
//! Text from a provider, a link or a token's name never becomes markup. Pages work without script, which only adds copy buttons and
//! keeps the fragment of the address over a sign-in.

use askama::Template;
use http::{HeaderMap, HeaderValue, header};

/// A provider on the sign-in page.
#[derive(Debug)]
pub(in crate::web) struct Choice<'p> {
    /// Display name of the provider.
    pub(in crate::web) label: &'p str,
    pub(in crate::web) href: String,
}

/// The sign-in page.
#[derive(Debug, Template)]
#[template(path = "sign_in.html")]
pub(in crate::web) struct SignInPage<'p> {
    /// MLflow's static prefix, which precedes the paths of all links. Every page has this field.
    pub(in crate::web) base: &'p str,
    pub(in crate::web) choices: Vec<Choice<'p>>,
    /// True to let the page's script redirect to the only provider at once.
    pub(in crate::web) at_once: bool,
    pub(in crate::web) password_form: bool,
    pub(in crate::web) return_to: &'p str,
    /// User name of the last attempt.
    pub(in crate::web) username: &'p str,
    /// Error of the last attempt.
    pub(in crate::web) wrong: Option<&'p str>,
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

/// The page for a user in none of the allowed groups.
#[derive(Debug, Template)]
#[template(path = "denied.html")]
pub(in crate::web) struct DeniedPage<'p> {
    pub(in crate::web) base: &'p str,
    pub(in crate::web) name: &'p str,
    /// The user's groups at the provider.
    pub(in crate::web) groups: &'p [String],
    /// The groups of which one is required.
    pub(in crate::web) allowed: &'p [AllowedGroup<'p>],
    /// Address at which the provider signs the user out.
    pub(in crate::web) sign_out: Option<&'p str>,
}

/// A group that is allowed to sign in.
#[derive(Debug)]
pub(in crate::web) struct AllowedGroup<'p> {
    pub(in crate::web) name: &'p str,
    /// True if groups below it are allowed, too.
    pub(in crate::web) below: bool,
}

impl<'p> AllowedGroup<'p> {
    /// Reads an entry of `allowed_groups`. `/ml/**` stands for `/ml` and all groups below it.
    pub(in crate::web) fn of(pattern: &'p str) -> Self {
        match pattern.strip_suffix("/**") {
            Some(name) if !name.is_empty() => Self { name, below: true },
            Some(_) | None => Self { name: pattern, below: false },
        }
    }
}

/// The page for a request that is refused or failed.
#[derive(Debug, Template)]
#[template(path = "error.html")]
pub(in crate::web) struct ErrorPage<'p> {
    pub(in crate::web) base: &'p str,
    pub(in crate::web) heading: &'p str,
    pub(in crate::web) words: &'p str,
    /// Address of MLflow's first page.
    pub(in crate::web) home: &'p str,
    /// True to link to the sign-in page.
    pub(in crate::web) sign_in: bool,
    /// True to link to the account page.
    pub(in crate::web) account: bool,
    /// True to link to the sign-out page.
    pub(in crate::web) sign_out: bool,
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

/// The account page.
#[derive(Debug, Template)]
#[template(path = "account.html")]
pub(in crate::web) struct AccountPage<'p> {
    pub(in crate::web) base: &'p str,
    pub(in crate::web) name: &'p str,
    pub(in crate::web) admin: bool,
    pub(in crate::web) scheme: &'static str,
    pub(in crate::web) groups: &'p [String],
    pub(in crate::web) tokens: Vec<TokenRow>,
    pub(in crate::web) sessions: Vec<SessionRow>,
    /// True if there are sessions other than this one.
    pub(in crate::web) has_others: bool,
    /// True if the credential in use allows changes to the account.
    pub(in crate::web) can_change: bool,
    /// Lifetimes on offer, in days.
    pub(in crate::web) expiries: Vec<u32>,
    /// CSRF token of the forms.
    pub(in crate::web) form_token: String,
    /// Error of the last form.
    pub(in crate::web) wrong: Option<String>,
    /// The outcome of the last form.
    pub(in crate::web) notice: Option<String>,
    /// Fields of the token form, after an error.
    pub(in crate::web) form: TokenForm,
    /// True if the account has a password that can be changed.
    pub(in crate::web) has_password: bool,
}

/// The fields of the form for a new access token.
#[derive(Debug)]
pub(in crate::web) struct TokenForm {
    pub(in crate::web) name: String,
    pub(in crate::web) expires_in_days: u32,
    pub(in crate::web) read_only: bool,
    pub(in crate::web) only: String,
}

impl Default for TokenForm {
    fn default() -> Self {
        Self { name: String::new(), expires_in_days: 90, read_only: false, only: String::new() }
    }
}

/// An access token in the list, with texts as they are shown.
#[derive(Debug)]
pub(in crate::web) struct TokenRow {
    pub(in crate::web) id: i64,
    pub(in crate::web) name: String,
    pub(in crate::web) scopes: String,
    pub(in crate::web) created: String,
    pub(in crate::web) expires: String,
    pub(in crate::web) last_used: String,
}

/// A session in the list, with texts as they are shown.
#[derive(Debug)]
pub(in crate::web) struct SessionRow {
    pub(in crate::web) id: i64,
    pub(in crate::web) browser: String,
    pub(in crate::web) address: String,
    pub(in crate::web) created: String,
    pub(in crate::web) last_used: String,
    pub(in crate::web) current: bool,
}

/// The page with the secret of a new token, shown once.
#[derive(Debug, Template)]
#[template(path = "new_token.html")]
pub(in crate::web) struct NewTokenPage<'p> {
    pub(in crate::web) base: &'p str,
    pub(in crate::web) name: &'p str,
    pub(in crate::web) expires: String,
    pub(in crate::web) blocks: Vec<Block>,
}

/// A text to copy.
#[derive(Debug)]
pub(in crate::web) struct Block {
    pub(in crate::web) id: &'static str,
    pub(in crate::web) title: &'static str,
    pub(in crate::web) text: String,
}

/// Renders the sign-in page.
pub(in crate::web) fn sign_in(page: &SignInPage<'_>) -> String {
    rendered(page)
}

/// Renders the page after a sign-out.
pub(in crate::web) fn signed_out(base: &str) -> String {
    rendered(&SignedOut { base })
}

/// Renders the question before a sign-out.
pub(in crate::web) fn confirm_logout(base: &str) -> String {
    rendered(&ConfirmLogout { base })
}

/// Renders the page for a user in none of the allowed groups.
pub(in crate::web) fn denied(page: &DeniedPage<'_>) -> String {
    rendered(page)
}

/// Renders an error page.
pub(in crate::web) fn error(page: &ErrorPage<'_>) -> String {
    rendered(page)
}

/// Renders MLflow's form for new accounts, with the error of the last attempt.
pub(in crate::web) fn sign_up(base: &str, csrf_token: &str, username: &str, wrong: Option<&str>) -> String {
    rendered(&SignUp { base, csrf_token, username, wrong })
}

/// Renders the page after an account was created.
pub(in crate::web) fn signed_up(base: &str, username: &str) -> String {
    rendered(&SignedUp { base, username })
}

/// Renders the account page.
pub(in crate::web) fn account(page: &AccountPage<'_>) -> String {
    rendered(page)
}

/// Renders the page with the secret of a new token.
pub(in crate::web) fn new_token(page: &NewTokenPage<'_>) -> String {
    rendered(page)
}

/// Returns media type and content of a static file.
pub(in crate::web) fn asset(name: &str) -> Option<(&'static str, &'static str)> {
    match name {
        "icon.svg" => Some(("image/svg+xml", include_str!("icon.svg"))),
        "pages.js" => Some(("text/javascript; charset=utf-8", include_str!("pages.js"))),
        "style.css" => Some(("text/css; charset=utf-8", include_str!("style.css"))),
        _ => None,
    }
}

/// Sets the security headers of an HTML page. `actions`: further origins at which its forms may end, each after a space.
///
/// The referrer policy is `same-origin` because browsers send `Origin: null` with forms of a page without referrer.
pub(in crate::web) fn guard(headers: &mut HeaderMap, actions: &str) {
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

/// Renders into memory. That fails only if a template itself returns an error, which none does.
fn rendered(page: &impl Template) -> String {
    page.render().unwrap_or_else(|error| {
        tracing::error!(%error, "a page could not be written");
        String::new()
    })
}

#[cfg(test)]
mod tests;
