//! The request for a list, whose filter and page are in the query or in the JSON body.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};

use super::ListError;
use crate::budget::Share;
use crate::http::{Body, Query};
use crate::mlflow::Json;
use crate::upstream::Outgoing;

/// The canonical request for a list. The page parameters are in the query or in the JSON body.
#[derive(Debug)]
pub struct ListRequest<'r, 'b> {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub query: &'r mut Query,
    pub body: Option<&'r mut Json<'b>>,
    /// The memory for its response.
    pub share: Share,
}

/// The parameters that the client sent for a list.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) filter: Option<String>,
    /// The requested skills, for a list of skills.
    pub(super) identities: Vec<String>,
}

/// The parameter of a list of skills that selects them. A single empty value selects none (3.18).
const IDENTITIES: &str = "include_skill_identities";

impl ListRequest<'_, '_> {
    pub(super) fn max_results(&self) -> Result<Option<usize>, ListError> {
        let text = match &self.body {
            None => self.query.only("max_results").map_err(|_| ListError::MaxResults)?.map(str::to_owned),
            Some(body) => match body.get("max_results").or_else(|| body.get("maxResults")) {
                None => None,
                Some(Json::Scalar(number)) => Some((*number).to_owned()),
                Some(Json::String(number)) => Some(number.clone().into_owned()),
                Some(Json::Array(_) | Json::Object(_) | Json::Closed(_)) => return Err(ListError::MaxResults),
            },
        };
        let Some(text) = text else { return Ok(None) };
        match text.parse::<usize>() {
            Ok(rows) if rows > 0 && rows <= 1_000_000 => Ok(Some(rows)),
            _ => Err(ListError::MaxResults),
        }
    }

    pub(super) fn asked(&self) -> Asked {
        let filter = match &self.body {
            None => self.query.all("filter").next().map(str::to_owned),
            Some(body) => body.text("filter").map(str::to_owned),
        };
        Asked { filter, identities: self.query.all(IDENTITIES).map(str::to_owned).collect() }
    }

    pub(super) fn ask(&mut self, asked: &Asked) {
        self.set_filter(asked.filter.as_deref());
        self.set_identities(&asked.identities);
    }

    pub(super) fn set_identities(&mut self, identities: &[String]) {
        self.query.set(IDENTITIES, None);
        for identity in identities {
            self.query.add(IDENTITIES, identity);
        }
    }

    pub(super) fn set_filter(&mut self, filter: Option<&str>) {
        match &mut self.body {
            None => self.query.set("filter", filter),
            Some(Json::Object(members)) => {
                members.retain(|(key, _)| key != "filter");
                members.extend(filter.map(|filter| ("filter".into(), Json::String(filter.to_owned().into()))));
            }
            Some(_) => {}
        }
    }

    pub(super) fn page_token(&self) -> Option<String> {
        match &self.body {
            None => self.query.all("page_token").next().map(str::to_owned),
            Some(body) => body.text("page_token").or_else(|| body.text("pageToken")).map(str::to_owned),
        }
    }

    pub(super) fn set_page(&mut self, rows: Option<usize>, token: Option<&str>) {
        let rows = rows.map(|rows| rows.to_string());
        match &mut self.body {
            None => {
                self.query.set("max_results", rows.as_deref());
                self.query.set("page_token", token);
            }
            Some(Json::Object(members)) => {
                members.retain(|(key, _)| !matches!(&**key, "max_results" | "maxResults" | "page_token" | "pageToken"));
                let text = |text: String| Json::String(text.into());
                members.extend(rows.map(|rows| ("max_results".into(), text(rows))));
                members.extend(token.map(|token| ("page_token".into(), text(token.to_owned()))));
            }
            Some(_) => {}
        }
    }

    pub(super) fn target(&self) -> String {
        let mut target = self.path.clone();
        if self.body.is_none() && !self.query.is_empty() {
            target.push('?');
            target.push_str(&self.query.encoded());
        }
        target
    }

    pub(super) fn outgoing(&self) -> Outgoing {
        let mut headers = self.headers.clone();
        let target = self.target();
        let body = match &self.body {
            None => Body::Empty,
            Some(body) => {
                let bytes = Bytes::from(body.to_bytes());
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
                Body::from(bytes)
            }
        };
        // The response is parsed here, so it must not be compressed.
        headers.remove(header::ACCEPT_ENCODING);
        Outgoing { method: self.method.clone(), target, headers, body }
    }
}
