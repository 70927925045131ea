//! State of the files that are read again while the proxy runs, for `/readyz`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::server::admin::Check;

/// For each followed file, the reason why its present content is not in use, if there is one.
#[derive(Debug, Default)]
pub(super) struct Followed(Mutex<BTreeMap<&'static str, Option<String>>>);

impl Followed {
    /// Records that the content of `file` is in use, or the reason why its earlier content still is.
    pub(super) fn is(&self, file: &'static str, trouble: Option<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(file, trouble);
    }

    /// Returns one check per file. None of them makes the proxy unready, because the last valid content is still in
    /// use.
    pub(super) fn checks(&self) -> Vec<Check> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.iter().map(|(name, warning)| Check { name, problem: None, warning: warning.clone() }).collect()
    }
}
