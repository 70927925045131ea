//! All errors that end a request without MLflow's response, and the only place that maps each to a status and a message.
//!
//! Messages contain no internal details. Causes are logged here, once.

use std::borrow::Cow;

use http::{HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::bodies::BodyError;
use super::{Record, own};
use crate::authn;
use crate::authz::{Denied, Permission, ResourceKind};
use crate::budget::Full;
use crate::effects::EffectError;
use crate::filter::ListError;
use crate::http::{ErrorCode, HeadError, PathError, QueryError, ReadError, Reply, Response};
use crate::mlflow::{AddressError, Feature, GraphqlError, JsonError, LocateError, OtlpError};
use crate::resolve;
use crate::server::EdgeRefusal;
use crate::store;
use crate::upstream;

/// The reason why a request ends without MLflow's response.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("refused at the edge: {0:?}")]
    Edge(EdgeRefusal),
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("unknown host")]
    UnknownHost,
    #[error("cross-origin request")]
    CrossOrigin,
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Authn(#[from] authn::Error),
    /// A redirect of a browser to the sign-in page.
    #[error("not signed in")]
    SignIn(HeaderValue),
    /// A redirect to MLflow's first page.
    #[error("below the static prefix")]
    Moved(HeaderValue),
    #[error(transparent)]
    Spans(#[from] OtlpError),
    /// An export of spans lacks a required field: 422, as in MLflow.
    #[error(transparent)]
    SpansLack(LocateError),
    #[error(transparent)]
    Graphql(#[from] GraphqlError),
    #[error("another workspace")]
    Workspace,
    #[error("outside the static prefix")]
    OutsidePrefix(String),
    #[error("unknown route")]
    UnknownRoute,
    #[error("blocked: {}", .0.as_str())]
    Blocked(Feature),
    #[error("the trace is in another experiment")]
    TraceElsewhere,
    #[error("the queue's name is a user's")]
    UsersName,
    /// The caller has as many requests under way as one user may have.
    #[error("too many requests of one user")]
    TooManyRequests,
    #[error("method not allowed")]
    MethodNotAllowed(Vec<Method>),
    #[error("the body is not JSON as its Content-Type says")]
    ContentType,
    #[error("the body is encoded")]
    ContentEncoding,
    #[error(transparent)]
    Body(#[from] BodyError),
    /// MLflow carried out the request, and there is no memory for its answer.
    #[error("too many answers wait to be read")]
    Unkept,
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// MLflow would connect to an address that is not allowed.
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    Resolve(#[from] resolve::Error),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Upstream(upstream::Error),
    #[error(transparent)]
    List(ListError),
    #[error(transparent)]
    Effect(EffectError),
}

impl From<upstream::Error> for Error {
    fn from(error: upstream::Error) -> Self {
        if let upstream::Error::SlowBody = error {
            Self::Body(BodyError::TooSlow)
        } else if let upstream::Error::BrokenBody = error {
            Self::Body(BodyError::Read(ReadError::Broken))
        } else {
            Self::Upstream(error)
        }
    }
}

impl From<ListError> for Error {
    fn from(error: ListError) -> Self {
        match error {
            ListError::Upstream(error) => error.into(),
            ListError::Resolve(error) => error.into(),
            ListError::NoRoom(full) => Self::Body(BodyError::NoRoom(full)),
            ListError::PageToken | ListError::MaxResults | ListError::RowTooLarge(_) => Self::List(error),
        }
    }
}

impl From<EffectError> for Error {
    fn from(error: EffectError) -> Self {
        if let EffectError::Upstream(error) = error {
            error.into()
        } else if let EffectError::LookUp(error) = error {
            error.into()
        } else if let EffectError::NoRoom(full) = error {
            Self::Body(BodyError::NoRoom(full))
        } else {
            Self::Effect(error)
        }
    }
}

impl Error {
    /// Converts the error for a missing header of an export of spans.
    pub(super) fn in_spans(self) -> Self {
        if let Self::Locate(error @ LocateError::Missing(_)) = self { Self::SpansLack(error) } else { self }
    }

    /// The error of a request that MLflow has carried out: repeating it is not safe.
    pub(super) fn after_a_change(self) -> Self {
        if let Self::Body(BodyError::NoRoom(_)) = self { Self::Unkept } else { self }
    }

    /// Returns the response, and records the error. `pages` is the address of the proxy's own pages, without `/auth`.
    pub(super) fn into_response(self, pages: &str, record: &mut Record) -> Response {
        record.failed(&self);
        let mut response = if let Self::Authn(error) = self {
            own::unauthenticated(&error, &format!("{pages}/auth/account"), record.is_browser_xhr())
        } else if let Self::SignIn(location) | Self::Moved(location) = self {
            own::found(location)
        } else {
            self.reply(pages).into_response()
        };
        // INVARIANT: 503 with Retry-After means that the request was not sent to MLflow.
        let unsent = response.status() == StatusCode::SERVICE_UNAVAILABLE;
        if unsent && response.headers().contains_key(header::RETRY_AFTER) && record.resends_only_after_429() {
            *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        }
        response
    }

    /// Returns heading and message for a browser that opens a page; `None` for redirects. Users do not see the configuration
    /// keys that the JSON response contains for the operator.
    #[expect(clippy::too_many_lines, reason = "one arm for each kind of error")]
    pub(super) fn page(&self) -> Option<(&'static str, Cow<'static, str>)> {
        const LATER: &str = "Try again later";
        let (heading, words) = match self {
            Self::SignIn(_) | Self::Moved(_) => return None,
            Self::Authn(authn::Error::Missing | authn::Error::Failed(_)) => {
                ("Not signed in", "You are not signed in, or the user name or password is wrong.".into())
            }
            Self::Authn(authn::Error::TooManyAttempts { .. }) => {
                (LATER, "There were too many failed sign-ins from here. Wait some minutes before you try again.".into())
            }
            Self::Authn(authn::Error::Busy | authn::Error::NoKeys | authn::Error::Store(_)) => {
                (LATER, "Sign-in is not possible right now. Try again in a moment.".into())
            }
            Self::UnknownRoute | Self::OutsidePrefix(_) | Self::Path(_) | Self::MethodNotAllowed(_) => {
                (own::NOT_FOUND, own::NO_PAGE.into())
            }
            Self::Resolve(resolve::Error::NoSuchName(what)) => (own::NOT_FOUND, what.clone().into()),
            Self::Blocked(_) => ("Feature turned off", "This feature of MLflow is turned off on this server.".into()),
            Self::Denied(denied) => (own::DENIED, denied.to_string().into()),
            Self::CrossOrigin | Self::Address(AddressError::NotAllowed(_)) => {
                (own::DENIED, "This request is not allowed.".into())
            }
            Self::UnknownHost => (own::NOT_FOUND, "This server is reached under another address.".into()),
            Self::Upstream(error)
            | Self::List(ListError::Upstream(error))
            | Self::Effect(EffectError::Upstream(error)) => (LATER, unavailable(error).message.into()),
            Self::Resolve(resolve::Error::Upstream(error))
            | Self::List(ListError::Resolve(resolve::Error::Upstream(error))) => {
                (LATER, unavailable(error).message.into())
            }
            Self::TooManyRequests => (LATER, TOO_MANY_REQUESTS.into()),
            Self::Effect(EffectError::NotBegun(_) | EffectError::Taken) => {
                (LATER, "Nothing was changed. Try again later.".into())
            }
            Self::Edge(_)
            | Self::Head(_)
            | Self::Query(_)
            | Self::ContentType
            | Self::ContentEncoding
            | Self::Body(_)
            | Self::Json(_)
            | Self::Locate(_)
            | Self::Address(AddressError::Malformed(_))
            | Self::Spans(_)
            | Self::SpansLack(_)
            | Self::Graphql(_)
            | Self::Workspace
            | Self::TraceElsewhere
            | Self::UsersName
            | Self::Unkept
            | Self::List(
                ListError::PageToken | ListError::MaxResults | ListError::RowTooLarge(_) | ListError::NoRoom(_),
            )
            | Self::List(ListError::Resolve(resolve::Error::NoSuchName(_)))
            | Self::Effect(
                EffectError::NoRoom(_)
                | EffectError::Unsettled(_)
                | EffectError::Changed
                | EffectError::LookUp(_)
                | EffectError::NotFinished(_)
                | EffectError::TakenOver
                | EffectError::Unchecked(_)
                | EffectError::UsedId(_)
                | EffectError::Lost,
            ) => (own::NOT_PROCESSED, "The server cannot process this request.".into()),
        };
        Some((heading, words))
    }

    /// Returns false if the rest of the request's body need not be read.
    pub(super) const fn is_worth_reading_on(&self) -> bool {
        !matches!(self, Self::Body(BodyError::TooSlow | BodyError::Read(ReadError::Broken)))
    }

    /// Returns a bounded word for logs and metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Edge(refusal) => refusal.as_str(),
            Self::Head(error) => error.reason(),
            Self::UnknownHost => "unknown_host",
            Self::CrossOrigin => "cross_origin",
            Self::Path(_) => "path",
            Self::Query(_) => "query",
            Self::Authn(error) => match error {
                authn::Error::Missing => "no_credentials",
                authn::Error::Failed(reason) => reason.as_str(),
                authn::Error::TooManyAttempts { .. } => "too_many_attempts",
                authn::Error::Busy => "password_queue_full",
                authn::Error::NoKeys => "jwt_no_keys",
                authn::Error::Store(_) => "store",
            },
            Self::SignIn(_) => "no_credentials",
            Self::Spans(_) | Self::SpansLack(_) => "spans",
            Self::Graphql(_) => "graphql",
            Self::Workspace => "workspace",
            Self::OutsidePrefix(_) | Self::Moved(_) => "outside_prefix",
            Self::UnknownRoute => "unknown_route",
            Self::Blocked(_) => "blocked",
            Self::TraceElsewhere | Self::UsersName => "parameters",
            Self::TooManyRequests => "too_many_requests",
            Self::MethodNotAllowed(_) => "method",
            Self::ContentType => "content_type",
            Self::ContentEncoding => "content_encoding",
            Self::Body(error) => error.reason(),
            Self::Unkept => "answers_share",
            Self::Json(_) => "json",
            Self::Locate(LocateError::Json(_)) => "json",
            Self::Locate(_) => "parameters",
            Self::Address(_) => "address",
            Self::Resolve(resolve::Error::NoSuchName(_)) => "no_such_name",
            Self::Denied(denied) => denied.reason(),
            Self::Upstream(error) => reason_of(error),
            Self::Resolve(resolve::Error::Upstream(error)) => reason_of(error),
            Self::List(ListError::RowTooLarge(_)) => "answer_too_large",
            Self::List(ListError::PageToken | ListError::MaxResults) => "parameters",
            Self::List(_) | Self::Effect(EffectError::Upstream(_) | EffectError::Unsettled(_)) => "upstream",
            Self::Effect(EffectError::NotBegun(store::Error::Nul | store::Error::TooLong(_))) => "invalid_name",
            Self::Effect(EffectError::NotBegun(_)) => "store",
            Self::Effect(EffectError::UsedId(_)) => "used_id",
            Self::Effect(EffectError::LookUp(_)) => "upstream",
            Self::Effect(EffectError::Changed) => "conflict",
            Self::Effect(EffectError::Taken) => "turn_taken",
            Self::Effect(EffectError::NoRoom(_)) => "inspection_share",
            Self::Effect(
                EffectError::NotFinished(_) | EffectError::TakenOver | EffectError::Unchecked(_) | EffectError::Lost,
            ) => "effect_unfinished",
        }
    }

    fn reply(self, pages: &str) -> Reply {
        match self {
            Self::Edge(refusal) => refusal.reply(),
            Self::Head(error @ HeadError::Method(_)) => {
                Reply::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::BadRequest, error.to_string())
            }
            Self::Head(error) => {
                // The remaining data on this connection may be part of the same attack.
                Reply::invalid(error.to_string()).with(header::CONNECTION, HeaderValue::from_static("close"))
            }
            Self::UnknownHost => Reply::new(StatusCode::MISDIRECTED_REQUEST, ErrorCode::BadRequest, UNKNOWN_HOST),
            Self::CrossOrigin => refused(CROSS_ORIGIN),
            Self::Path(error) => Reply::invalid(error.to_string()),
            Self::Query(error) => Reply::invalid(format!("Invalid request: {error}.")),
            Self::MethodNotAllowed(methods) => method_not_allowed(&methods),
            Self::ContentType => Reply::invalid("Bad Request. The body must come with Content-Type: application/json."),
            Self::ContentEncoding => {
                Reply::invalid("Bad Request. This endpoint does not accept encoded (compressed) bodies.")
            }
            Self::Body(error) => body(&error),
            Self::TooManyRequests => too_many_requests(),
            Self::Unkept => {
                Reply::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TemporarilyUnavailable, NO_MEMORY_FOR_ANSWER)
            }
            Self::Json(error) => Reply::invalid(error.to_string()),
            Self::Locate(error) => Reply::invalid(error.to_string()),
            Self::Address(error @ AddressError::Malformed(_)) => Reply::invalid(error.to_string()),
            Self::Address(error @ AddressError::NotAllowed(_)) => refused(error),
            Self::Spans(error) => Reply::new(error.status(), ErrorCode::InvalidParameterValue, error.to_string()),
            Self::SpansLack(error) => {
                Reply::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::InvalidParameterValue, error.to_string())
            }
            Self::Graphql(GraphqlError::Answer) => unavailable(&upstream::Error::NotUnderstood),
            Self::Graphql(error) => Reply::invalid(error.to_string()),
            Self::Workspace => Reply::invalid(DEFAULT_WORKSPACE_ONLY),
            Self::OutsidePrefix(prefix) => {
                let message = format!("There is nothing here. MLflow is below '{prefix}/'.");
                Reply::new(StatusCode::NOT_FOUND, ErrorCode::EndpointNotFound, message)
            }
            Self::UnknownRoute => refused(UNKNOWN_ROUTE),
            Self::Blocked(feature) => refused(format!(
                "This feature of MLflow is closed to all users. Its operator can open it to administrators: add \"{}\" to \
                 authz.opened.",
                feature.as_str()
            )),
            Self::TraceElsewhere => Reply::invalid(
                "A trace with this ID exists in another experiment, and traces cannot be moved. Use a new ID.",
            ),
            Self::UsersName => Reply::invalid(
                "A custom review queue cannot have the name of a registered user. Assign that user to a queue instead.",
            ),
            Self::Denied(denied) => not_granted(&denied, pages),
            Self::Resolve(error) => resolve(&error),
            Self::Upstream(error) => unavailable(&error),
            Self::List(error) => list(&error),
            Self::Effect(error) => effect(error),
            Self::Authn(_) | Self::SignIn(_) | Self::Moved(_) => {
                Reply::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthenticated, own::NOT_AUTHENTICATED)
            }
        }
    }
}

const fn reason_of(error: &upstream::Error) -> &'static str {
    if let upstream::Error::Connect(unsent) = error
        && unsent.is_changed()
    {
        return "rights_changed";
    }
    "upstream"
}

fn too_many_requests() -> Reply {
    Reply::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::RequestLimitExceeded, TOO_MANY_REQUESTS)
        .with(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

fn not_granted(denied: &Denied, pages: &str) -> Reply {
    // A caller with access to the resource is allowed to query the grants on it.
    let question = |permission: Permission, kind: ResourceKind, key: &str| {
        // As in a query, but `:` and `*` stay readable.
        let key = utf8_percent_encode(key, IN_QUERY);
        format!(" To see the grants: GET {pages}/auth/api/v1/explain?operation={permission}&resource={kind}:{key}")
    };
    let more = match denied {
        Denied::Missing { permission, resource } => question(*permission, resource.kind, &resource.key),
        Denied::MissingTier { permission, tier } => question(*permission, *tier, "*"),
        Denied::NotAdmin
        | Denied::Privileged(_)
        | Denied::MayNotCreate(_)
        | Denied::NotYours
        | Denied::MissingOnOwner { .. }
        | Denied::TokenIsReadOnly
        | Denied::TokenScope(_) => String::new(),
    };
    Reply::new(StatusCode::FORBIDDEN, ErrorCode::PermissionDenied, format!("{denied}{more}"))
}

fn body(error: &BodyError) -> Reply {
    match error {
        BodyError::Read(ReadError::TooLarge { limit }) => Reply::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::InvalidParameterValue,
            format!("The request body is larger than {limit} bytes. Send it in parts, or raise server.max_body_bytes."),
        ),
        BodyError::Read(ReadError::Broken) => Reply::invalid("The request body ended before it was complete."),
        BodyError::TooSlow => Reply::new(
            StatusCode::REQUEST_TIMEOUT,
            ErrorCode::BadRequest,
            "The request body arrived too slowly. Send it over a faster connection or in parts, or change \
                 server.body_timeout_seconds or server.min_body_bytes_per_second.",
        )
        .with(header::CONNECTION, HeaderValue::from_static("close")),
        BodyError::NoRoom(full) => no_room(*full),
    }
}

fn list(error: &ListError) -> Reply {
    match error {
        ListError::Upstream(error) => unavailable(error),
        ListError::Resolve(error) => resolve(error),
        ListError::PageToken | ListError::MaxResults => Reply::invalid(error.to_string()),
        // Not 502, because clients would retry repeatedly.
        ListError::NoRoom(full) => no_room(*full),
        ListError::RowTooLarge(_) => {
            Reply::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::InvalidParameterValue, error.to_string())
        }
    }
}

fn effect(error: EffectError) -> Reply {
    match error {
        EffectError::Upstream(error) => unavailable(&error),
        EffectError::LookUp(error) => resolve(&error),
        EffectError::NotBegun(store::Error::Nul) => {
            Reply::invalid("Names must not contain the character U+0000.".to_owned())
        }
        EffectError::NotBegun(error @ store::Error::TooLong(_)) => {
            Reply::invalid(format!("This name cannot be used: {error}."))
        }
        EffectError::NotBegun(_) => own::store_unavailable(),
        EffectError::Unsettled(_) => Reply::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::TemporarilyUnavailable,
            "An earlier change of the same name was interrupted and cannot be completed now. Nothing was changed. Try again later.",
        )
        .with(header::RETRY_AFTER, HeaderValue::from_static("5")),
        EffectError::UsedId(id) => Reply::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::TemporarilyUnavailable,
            format!(
                "MLflow assigned the ID {id} to the new experiment, but data of a purged experiment is left under that ID. \
                 The new experiment was deleted. Repeat the request: it gets another ID."
            ),
        )
        .with(header::RETRY_AFTER, HeaderValue::from_static("0")),
        EffectError::Changed => Reply::new(
            StatusCode::CONFLICT,
            ErrorCode::ResourceConflict,
            "Another request created or deleted the same resource at the same time. Nothing was changed. Try again.",
        ),
        EffectError::NoRoom(full) => no_room(full),
        EffectError::Taken => Reply::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::TemporarilyUnavailable,
            "Another request is changing the same resource, and MLflow has not answered it yet. Nothing was changed. Try \
             again in a few seconds.",
        )
        .with(header::RETRY_AFTER, HeaderValue::from_static("2")),
        EffectError::Lost | EffectError::TakenOver => Reply::new(
            StatusCode::BAD_GATEWAY,
            ErrorCode::TemporarilyUnavailable,
            "This request failed while it was carried out. Check if MLflow made the change before you repeat it.",
        ),
        EffectError::NotFinished(_) | EffectError::Unchecked(_) => Reply::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::TemporarilyUnavailable,
            "MLflow made the change, but its permissions could not be written yet; they will be within minutes. \
                 Do not repeat the request.",
        ),
    }
}

/// Returns 503: other bodies use the memory.
fn no_room(full: Full) -> Reply {
    let message = match full {
        Full::Everybodys => {
            "Too many large requests or answers are being inspected. Try again in a few seconds, or raise \
             server.inspection_budget_bytes."
        }
        Full::Callers => {
            "Too many of your large requests or answers are being inspected. Send fewer at the same time, or smaller ones, \
             and read their answers."
        }
    };
    Reply::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TemporarilyUnavailable, message)
        .with(header::RETRY_AFTER, HeaderValue::from_static("2"))
}

/// Returns 403. MLflow's own clients match `Permission denied.` with the full stop.
fn refused(why: impl std::fmt::Display) -> Reply {
    Reply::new(StatusCode::FORBIDDEN, ErrorCode::PermissionDenied, format!("Permission denied. {why}"))
}

fn resolve(error: &resolve::Error) -> Reply {
    match error {
        resolve::Error::NoSuchName(what) => {
            Reply::new(StatusCode::NOT_FOUND, ErrorCode::ResourceDoesNotExist, what.clone())
        }
        resolve::Error::Upstream(error) => match &**error {
            // The look-up may have arrived, but the request that requires it was not sent.
            upstream::Error::TimedOut(_)
            | upstream::Error::Broken(_)
            | upstream::Error::Unreadable(_)
            | upstream::Error::SlowBody
            | upstream::Error::BrokenBody => Reply { status: StatusCode::SERVICE_UNAVAILABLE, ..unavailable(error) }
                .with(header::RETRY_AFTER, HeaderValue::from_static("1")),
            upstream::Error::Connect(_)
            | upstream::Error::HalfWay(_)
            | upstream::Error::Unexpected(_)
            | upstream::Error::NotUnderstood
            | upstream::Error::Unwritable => unavailable(error),
        },
    }
}

fn unavailable(error: &upstream::Error) -> Reply {
    let (status, what) = match error {
        upstream::Error::TimedOut(_) => {
            (StatusCode::GATEWAY_TIMEOUT, "MLflow did not answer in time. Try again later.")
        }
        upstream::Error::Connect(unsent) => {
            let what = if unsent.is_changed() {
                "Your permissions changed while this request was processed, and nothing was sent to MLflow. Send it again."
            } else {
                "MLflow cannot be reached. Try again later."
            };
            return Reply::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TemporarilyUnavailable, what)
                .with(header::RETRY_AFTER, HeaderValue::from(unsent.retry_after_seconds));
        }
        upstream::Error::HalfWay(_)
        | upstream::Error::Broken(_)
        | upstream::Error::Unreadable(_)
        | upstream::Error::SlowBody
        | upstream::Error::BrokenBody => {
            (StatusCode::BAD_GATEWAY, "MLflow's answer could not be read to its end. Try again later.")
        }
        upstream::Error::Unexpected(_) | upstream::Error::NotUnderstood | upstream::Error::Unwritable => {
            (StatusCode::BAD_GATEWAY, "MLflow returned an answer that cannot be used. Ask the operator of MLflow.")
        }
    };
    Reply::new(status, ErrorCode::TemporarilyUnavailable, what)
}

fn method_not_allowed(methods: &[Method]) -> Reply {
    let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    let allow = names.join(", ");
    let reply = Reply::new(
        StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::BadRequest,
        format!("This endpoint accepts {allow} only."),
    );
    match HeaderValue::try_from(allow) {
        Ok(allow) => reply.with(header::ALLOW, allow),
        Err(_) => reply,
    }
}

const IN_QUERY: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':').remove(b'*').remove(b'/');

const DEFAULT_WORKSPACE_ONLY: &str = "This proxy serves the default workspace only. Leave the header X-MLFLOW-WORKSPACE out, \
                                      or unset MLFLOW_WORKSPACE.";

const UNKNOWN_ROUTE: &str = "This proxy does not know this route of MLflow, so it is closed to all users. If this MLflow is \
                             newer than the proxy, update the proxy, or let administrators through with \
                             authz.unlisted_routes_for_admins.";

const UNKNOWN_HOST: &str = "This host name is not served here. Use the proxy's public URL, or add the name to \
                            server.allowed_hosts.";

const NO_MEMORY_FOR_ANSWER: &str = "MLflow carried out the request, but there is no memory for its answer: too many answers \
                                    wait to be read. Do not repeat the request.";

const TOO_MANY_REQUESTS: &str = "Too many of your requests are being answered. Read their answers, or send fewer at the same \
                                 time. Try again in a second.";

const CROSS_ORIGIN: &str = "Another site's page may not change anything here. If this is the proxy's own page, set \
                            server.public_url to the address in the browser.";
