//! `/signup` and `users/create-ui`: MLflow's page on which an administrator makes accounts. Off by default.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;

use super::asked::Asked;
use super::{Answer, Parts, Refusal, html, shapes};
use crate::http::{ErrorCode, Reply};

const PURPOSE: &str = "signup";

/// `GET /signup`.
pub(super) async fn page(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    parts.require_admin_of_any(&asked)?;
    parts.require_signup()?;
    let token = parts.form_token(&asked, PURPOSE).await?;
    Ok(shapes::Shape::page(html::sign_up(&parts.reached.static_prefix, &token, "", None)))
}

/// `POST users/create-ui`, which is sent by that page only.
pub(super) async fn create(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    parts.require_admin_of_any(&asked)?;
    parts.require_signup()?;
    let form = asked.form()?;
    parts.check_form_token(&asked, PURPOSE, form.optional_text("csrf_token")?.unwrap_or_default()).await?;
    let name = form.text("username")?;
    match parts.sign_up(&asked, name, form.text("password")?).await {
        Ok(user) => Ok(shapes::Shape::page(html::signed_up(&parts.reached.static_prefix, &user.name))),
        // The page again, with what was typed but for the password. A denial is not the form's.
        Err(refusal) => {
            let (status, words) = refusal.into_words()?;
            let token = parts.form_token(&asked, PURPOSE).await?;
            Ok(shapes::Shape::page_with(
                status,
                html::sign_up(&parts.reached.static_prefix, &token, name, Some(&words)),
            ))
        }
    }
}

impl Parts {
    fn require_signup(&self) -> Result<(), Refusal> {
        if self.config.signup {
            return Ok(());
        }
        let message = "The sign-up page is off. Turn it on with authn.signup, or make accounts with users/create.";
        Err(Reply::new(StatusCode::NOT_FOUND, ErrorCode::EndpointNotFound, message).into())
    }
}
