//! `/signup` and `users/create-ui`: MLflow's page on which an administrator creates accounts. Off by default.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::html;
use super::response::page as html_page;
use crate::api::{ApiRequest, Context, Refusal};
use crate::http::{ErrorCode, Reply};

/// Purpose of the form's token.
const PURPOSE: &str = "signup";

/// `GET /signup`.
pub(super) async fn page(State(context): State<Arc<Context>>, request: ApiRequest) -> Result<Response, Refusal> {
    check(&context, &request)?;
    form(&context, &request, StatusCode::OK, "", None).await
}

/// `POST users/create-ui`, sent by the form of that page.
pub(super) async fn create(State(context): State<Arc<Context>>, request: ApiRequest) -> Result<Response, Refusal> {
    check(&context, &request)?;
    let fields = request.form()?;
    let token = fields.optional_text("csrf_token")?.unwrap_or_default();
    context.check_form_token(&request, PURPOSE, token).await?;
    let name = fields.text("username")?;
    match context.create_user(&request, name, fields.text("password")?).await {
        Ok(user) => {
            let page = html::signed_up(&context.address.static_prefix, &user.name);
            Ok(html_page(StatusCode::OK, page, ""))
        }
        // The form keeps the user name. A denial is not an error of the form and stays a refusal.
        Err(refusal) => {
            let (status, words) = refusal.into_words()?;
            form(&context, &request, status, name, Some(&words)).await
        }
    }
}

async fn form(
    context: &Context,
    request: &ApiRequest,
    status: StatusCode,
    username: &str,
    wrong: Option<&str>,
) -> Result<Response, Refusal> {
    let token = context.form_token(request, PURPOSE).await?;
    Ok(html_page(status, html::sign_up(&context.address.static_prefix, &token, username, wrong), ""))
}

fn check(context: &Context, request: &ApiRequest) -> Result<(), Refusal> {
    context.require_any_workspace_admin(request)?;
    if context.config.signup {
        return Ok(());
    }
    let message = "The sign-up page is off. Turn it on with authn.signup, or create accounts with users/create.";
    Err(Reply::new(StatusCode::NOT_FOUND, ErrorCode::EndpointNotFound, message).into())
}
