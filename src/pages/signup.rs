//! `/signup` and `users/create-ui`: MLflow's page on which an administrator makes accounts. Off by default.
//!
//! The token in the form proves that our page was filled in, by the one it was made for and lately: a browser also sends
//! the password along with what another site made it send.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use http::StatusCode;

use super::asked::Asked;
use super::{Answer, Parts, Refusal, shapes};
use crate::clock::Timestamp;
use crate::crypto::Sealer;
use crate::http::{ErrorCode, Reply};

/// How long a form may lie; Flask's own bound.
const FORM_LIFETIME: Duration = Duration::from_hours(1);
const PURPOSE: &str = "signup";

/// `GET /signup`.
pub(super) async fn page(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    parts.require_admin_of_any(&asked)?;
    parts.require_signup()?;
    let until = parts.clock.now().plus(FORM_LIFETIME).0.to_be_bytes();
    let token = parts.sealer().await?.seal(PURPOSE, asked.identity.user.0, &until);
    Ok(shapes::Shape::page(FORM.replace("{csrf_token}", &token)))
}

/// `POST users/create-ui`, which is sent by that page only.
pub(super) async fn create(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    parts.require_admin_of_any(&asked)?;
    parts.require_signup()?;
    let form = asked.form()?;
    let token = form.optional_text("csrf_token")?.unwrap_or_default();
    if token.is_empty() {
        return Err(Refusal::bad_request("The CSRF token is missing."));
    }
    let sealed = parts.sealer().await?.open(PURPOSE, asked.identity.user.0, token);
    let until = sealed.and_then(|until| until.try_into().ok()).map(|until| Timestamp(i64::from_be_bytes(until)));
    match until {
        None => return Err(Refusal::bad_request("The CSRF token is invalid.")),
        Some(until) if until <= parts.clock.now() => return Err(Refusal::bad_request("The CSRF token has expired.")),
        Some(_) => {}
    }
    let user = parts.sign_up(&asked, form.text("username")?, form.text("password")?).await?;
    Ok(shapes::Shape::page(DONE.replace("{username}", &escaped(&user.name))))
}

impl Parts {
    fn require_signup(&self) -> Result<(), Refusal> {
        if self.config.signup {
            return Ok(());
        }
        let message = "The sign-up page is off. Turn it on with authn.signup, or make accounts with users/create.";
        Err(Reply::new(StatusCode::NOT_FOUND, ErrorCode::EndpointNotFound, message).into())
    }

    async fn sealer(&self) -> Result<Sealer, Refusal> {
        Ok(Sealer::new(&self.store.sealing_key().await?))
    }
}

/// As text of a page.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

const FORM: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Sign up</title>
<style>
  body { font-family: sans-serif; max-width: 24rem; margin: 3rem auto; }
  input { box-sizing: border-box; width: 100%; margin: 0.25rem 0 1rem; padding: 0.5rem; }
</style>
</head>
<body>
<form action="api/2.0/mlflow/users/create-ui" method="post">
  <input type="hidden" name="csrf_token" value="{csrf_token}"/>
  <label for="username">Username:</label>
  <input type="text" id="username" name="username" autocomplete="off" required>
  <label for="password">Password:</label>
  <input type="password" id="password" name="password" minlength="12" autocomplete="new-password" required>
  <input type="submit" value="Sign up">
</form>
</body>
</html>
"#;

const DONE: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Sign up</title>
</head>
<body>
<p>Successfully signed up user: {username}</p>
<p><a href="../../../../signup">Another</a> or <a href="../../../../">back to MLflow</a></p>
</body>
</html>
"#;
