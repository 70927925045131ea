//! MLflow lists that are read to their end, or to the first row that is already known.

use std::ops::ControlFlow;

use serde::Deserialize;

use super::{Error, Resolver, failed};
use crate::http::Query;
use crate::mlflow::answers::ExperimentId;
use crate::mlflow::lookups;
use crate::upstream;

/// Rows per page: the maximum that MLflow allows for registered models.
const ROWS: &str = "1000";
/// Maximum number of pages, sufficient for a list of five million rows.
const PAGES: usize = 5000;

/// A page of a list.
pub(super) trait Page: for<'a> Deserialize<'a> {
    /// Takes the token of the next page; `None` or empty on the last page.
    fn next_page_token(&mut self) -> Option<String>;
}

impl Resolver {
    /// Passes the pages of a list to `take`, until it breaks or no page is left.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked, or refuses the query.
    pub(super) async fn each_page<P: Page>(
        &self,
        path: &str,
        mut query: Query,
        mut take: impl FnMut(P) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        query.set("max_results", Some(ROWS));
        for _ in 0..PAGES {
            let page = self.find::<P>(format!("{path}?{}", query.encoded())).await?;
            let mut page = page.ok_or_else(|| failed(upstream::Error::NotUnderstood))?;
            let token = page.next_page_token().filter(|token| !token.is_empty());
            if take(page).is_break() {
                return Ok(());
            }
            match token {
                Some(token) => query.set("page_token", Some(&token)),
                None => return Ok(()),
            }
        }
        // More pages than a real list has. An incomplete result would look like missing rows, so it is an error.
        Err(failed(upstream::Error::NotUnderstood))
    }

    /// Passes every experiment that MLflow created at or after `since` (Unix ms) to `take`, including deleted ones.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked, or refuses the query.
    pub(super) async fn experiments_since(&self, since: i64, mut take: impl FnMut(ExperimentId)) -> Result<(), Error> {
        let mut query = Query::default();
        query.set("view_type", Some("ALL"));
        // A stable order, in which experiments that are created during the walk come last.
        query.set("order_by", Some("experiment_id ASC"));
        if since > 0 {
            query.set("filter", Some(&format!("creation_time >= {since}")));
        }
        let page = |page: Experiments| {
            page.experiments.into_iter().for_each(&mut take);
            ControlFlow::Continue(())
        };
        self.each_page(lookups::EXPERIMENTS, query, page).await
    }
}

#[derive(Deserialize)]
struct Experiments {
    #[serde(default)]
    experiments: Vec<ExperimentId>,
    next_page_token: Option<String>,
}

impl Page for Experiments {
    fn next_page_token(&mut self) -> Option<String> {
        self.next_page_token.take()
    }
}
