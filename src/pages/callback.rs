//! `/auth/callback/{provider}`: a browser comes back from a provider.
//!
//! Nothing is asked of the provider before the state has shown that this very browser began, here, lately, and for the first
//! time. What the provider says in the address is never shown.

use http::StatusCode;

use super::html::{self, DeniedPage};
use super::login::{failed, no_such_provider, to_provider};
use super::visit::{Page, Proved, Visit, Visited, add_cookie, see_other, with};
use crate::http::Keep;
use crate::oidc::{self, Attempt, Person, Provider, Returned, Tokens, attempt_cookie, refresh};
use crate::store::{self, Occasion, Seen, User};

/// The longest code that is passed on, in bytes.
const MAX_CODE_BYTES: usize = 4096;

/// `GET /auth/callback/{provider}`.
pub(super) async fn answer(visit: &Visit<'_>, name: &str) -> Page {
    if let Some(refusal) = visit.refuse_programs() {
        return refusal;
    }
    let Some(provider) = visit.sign_in.providers.get(name) else { return no_such_provider(visit) };
    let refused = |outcome| refused(visit, provider, outcome);
    let Ok(query) = visit.query() else { return refused("unreadable") };
    let (Ok(state), Ok(code), Ok(iss), Ok(error)) =
        (query.only("state"), query.only("code"), query.only("iss"), query.only("error"))
    else {
        return refused("repeated_parameter");
    };
    let Some(sealed) = state.filter(|state| !state.is_empty()) else { return refused("no_state") };
    let attempts = &visit.sign_in.providers.attempts;
    let Some(state) = attempts.read(sealed) else { return refused("wrong_state") };
    if state.provider != provider.config.name || !provider.is_sender(iss) {
        return refused("another_provider");
    }
    let return_to = state.return_to(&visit.sign_in.home);
    let attempt = match attempts.take(sealed, &state, &visit.head.headers) {
        Returned::Right(attempt) => attempt,
        // Another tab was first, or this one took too long.
        Returned::Stale if visit.identity.is_some() => return see_other(return_to.as_str()),
        Returned::Stale => match state.next_try() {
            Some(tries) => return to_provider(visit, provider, &return_to, tries).await,
            None => return without_cookies(visit, provider),
        },
    };
    let mut page = match (error, code.filter(|code| (1..=MAX_CODE_BYTES).contains(&code.len()))) {
        (Some(error), _) => said_no(visit, provider, error),
        (None, None) => refused("no_code"),
        (None, Some(code)) => match enter(visit, provider, code, &attempt).await {
            Ok(Entered { user, proved }) => match visit.signed_in(&user, proved, &return_to).await {
                Ok(page) => outcome(page, provider, "done"),
                Err(error) => outcome(visit.store_is_away(&error), provider, "store"),
            },
            Err(page) => *page,
        },
    };
    add_cookie(&mut page, &attempt_cookie(sealed), "", Keep::No);
    page
}

/// Somebody who may come in.
struct Entered {
    user: User,
    proved: Proved,
}

async fn enter(visit: &Visit<'_>, provider: &Provider, code: &str, attempt: &Attempt) -> Result<Entered, Box<Page>> {
    let failed = |error: oidc::LoginError| Box::new(failed(visit, provider, &error));
    let granted = provider.redeem(code, attempt).await.map_err(failed)?;
    let person = provider.who_came(&granted, attempt).await.map_err(failed)?;
    let user =
        meet(visit, provider, &person).await.map_err(|error| Box::new(not_met(visit, provider, &person, &error)))?;
    let Some(user) = user.filter(|_| person.allowed) else {
        tracing::info!(provider = %provider.config.name, groups = ?person.groups, "somebody is in no allowed group");
        // Nothing of theirs is in the link, so the provider asks first.
        let sign_out = provider.sign_out_at(&Tokens::default());
        let page = html::denied(&DeniedPage {
            base: visit.base(),
            name: &person.name,
            groups: &person.groups,
            allowed: &provider.config.claims.allowed,
            sign_out: sign_out.as_ref().map(url::Url::as_str),
        });
        let page = visit.show(StatusCode::FORBIDDEN, page);
        return Err(Box::new(outcome_of(&person, page, provider, "not_allowed")));
    };
    // Changed groups count at once, here as well.
    visit.parts.authn.forget_all();
    let tokens = granted.tokens(Tokens::default());
    let refresh_at = tokens.refresh_token.is_some();
    let refresh_at = refresh_at.then(|| visit.parts.clock.now().plus(refresh::due(granted.expires_in)));
    let proved = Proved {
        provider: Some(provider.config.name.clone()),
        issuer: Some(provider.config.endpoint.issuer.clone()),
        subject: Some(person.subject),
        sid: person.sid,
        tokens: tokens.seal(&visit.sign_in.providers.keys, user.id.0),
        refresh_at,
    };
    Ok(Entered { user, proved })
}

/// The account, made at the first meeting. Somebody who may not come in gets none; one they have already learns of it, so
/// that their access tokens stop.
async fn meet(visit: &Visit<'_>, provider: &Provider, person: &Person) -> store::Result<Option<User>> {
    let (store, issuer) = (&visit.parts.store, &provider.config.endpoint.issuer);
    if !person.allowed && store.user_by_identity(issuer, &person.subject).await?.is_none() {
        return Ok(None);
    }
    let seen = Seen {
        issuer,
        subject: &person.subject,
        name: &person.name,
        groups: &person.groups,
        admin: person.admin,
        allowed: person.allowed,
        owns_plain_names: visit.parts.authn.policies().homes().owns_plain_names(issuer),
    };
    let user = store.meet(&visit.actor(&person.name), seen, Occasion::SignIn).await?;
    visit.parts.authn.forget_all();
    Ok(Some(user))
}

fn not_met(visit: &Visit<'_>, provider: &Provider, person: &Person, error: &store::Error) -> Page {
    if !matches!(error, store::Error::NameTaken(_) | store::Error::LooksLike { .. } | store::Error::Reserved(_)) {
        return outcome(visit.store_is_away(error), provider, "store");
    }
    tracing::warn!(provider = %provider.config.name, %error, "nobody was signed in: {error}");
    let words = match error {
        store::Error::Reserved(_) => {
            "Your user name belonged to another account here and is kept for it. An administrator of this proxy can release \
             it with `mlflow-auth-proxy user release`."
        }
        store::Error::LooksLike { .. } => {
            "Your user name looks like that of another user here. An administrator of the identity provider can change it."
        }
        _ => {
            "Somebody else already has your user name here: an account with a password, or a person of another identity \
             provider. An administrator of this proxy can rename or remove that account."
        }
    };
    outcome_of(person, visit.problem(StatusCode::CONFLICT, "Not signed in", words), provider, "name_taken")
}

/// The provider's own text stays where it came from: whoever makes a link can write it.
fn said_no(visit: &Visit<'_>, provider: &Provider, error: &str) -> Page {
    let (status, words, why) = match error {
        "access_denied" => {
            (StatusCode::FORBIDDEN, "The identity provider did not let you in, or you cancelled.", "access_denied")
        }
        "temporarily_unavailable" | "server_error" => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The identity provider is in trouble right now. Try again in a moment.",
            "provider_error",
        ),
        _ => (
            StatusCode::FORBIDDEN,
            "The identity provider refused the sign-in. Try again; if it goes on, tell whoever runs this proxy.",
            "refused",
        ),
    };
    outcome(visit.problem(status, "Not signed in", words), provider, why)
}

fn without_cookies(visit: &Visit<'_>, provider: &Provider) -> Page {
    let words = "Your browser does not keep the cookies that signing in needs. Allow cookies for this site, and open it \
                 under its public https address.";
    outcome(visit.problem(StatusCode::BAD_REQUEST, "Not signed in", words), provider, "no_cookie")
}

fn refused(visit: &Visit<'_>, provider: &Provider, why: &'static str) -> Page {
    let words =
        "This answer does not belong to a sign-in that your browser began here. Start again from the sign-in page.";
    outcome(visit.problem(StatusCode::BAD_REQUEST, "Not signed in", words), provider, why)
}

fn outcome(page: Page, provider: &Provider, outcome: &'static str) -> Page {
    with(page, Visited::SignIn { provider: provider.config.name.clone(), outcome, name: None })
}

/// As [`outcome`], of somebody for whom the provider vouched.
fn outcome_of(person: &Person, page: Page, provider: &Provider, outcome: &'static str) -> Page {
    let (provider, name) = (provider.config.name.clone(), Some(person.name.clone()));
    with(page, Visited::SignIn { provider, outcome, name })
}
