//! Metrics for Prometheus. Frequently used ones are handles that are created once; no value that a client chooses
//! becomes a label.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use prometheus::core::{AtomicU64, GenericCounter};
use prometheus::{Encoder, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, TextEncoder};

mod catalogue;

pub use catalogue::Described;
use catalogue::{Catalogue, Fixed};

/// All metrics of this process. Counters are relaxed atomics, so a request costs only a few additions.
#[derive(Debug)]
pub struct Metrics {
    catalogue: Catalogue,
    requests: IntCounterVec,
    operations: HashMap<&'static str, Operation>,
    other: Operation,
    durations: [Histogram; RequestKind::ALL.len()],
    denials: IntCounterVec,
    authentication_failures: IntCounterVec,
    logins: IntCounterVec,
    logouts: Fixed,
    session_refreshes: Fixed,
    directory_syncs: IntCounterVec,
    edge_refusals: IntCounterVec,
    body_refusals: Fixed,
    upstream_errors: Fixed,
    upstream_holds: Fixed,
    /// Requests that wait for MLflow now.
    pub upstream_holding: IntGauge,
    shadow_decisions: Fixed,
    unknown_fields: IntCounterVec,
    policy_loaded: IntGaugeVec,
    policy_loads: IntCounterVec,
    upstream_info: IntGaugeVec,
    /// 1 if MLflow answered when it was last asked for its version.
    pub upstream_answers: IntGauge,
    session_refreshes_paused: IntGaugeVec,
    tls_certificate_loaded: IntGaugeVec,
    tls_certificate_not_after: IntGaugeVec,
    oidc_fetches: IntCounterVec,
    oidc_keys_age: IntGaugeVec,
    /// Requests that match no row of the route table.
    pub unlisted_requests: IntCounter,
    /// Memory reserved for bodies that are being inspected.
    pub inspection_reserved: IntGauge,
    pub answers_reserved: IntGauge,
    /// Open connections.
    pub connections: IntGauge,
    pub connections_total: IntCounter,
    /// Connections closed at once because `max_connections` or `max_connections_per_address` were open, none of them
    /// idle.
    pub connections_refused: IntCounter,
    /// Idle connections that were closed to make room for another one.
    pub connections_evicted: IntCounter,
    pub tls_failures: IntCounter,
    /// Requests whose handling panicked. Any value other than 0 indicates a bug.
    pub panics: IntCounter,
    /// Follow-ups of requests that could not be written; the start-up check repairs them.
    pub effects_failed: IntCounter,
    /// Cache of verified credentials and loaded identities.
    pub identities: Cache,
    /// Cache of the resources that runs, versions and other objects belong to.
    pub resources: Cache,
    pub access_lines_dropped: IntCounter,
    pub audit_entries_dropped: IntCounter,
    /// Old entries of the audit log that were deleted.
    pub audit_entries_deleted: IntCounter,
    /// Attempts to delete old entries that failed.
    pub audit_deletions_failed: IntCounter,
    /// Rows of the audit log.
    pub audit_rows: IntGauge,
    /// Size of the store's database in bytes.
    pub store_bytes: IntGauge,
    store_listening: IntGaugeVec,
    /// 1 if the store answered when it was last asked for changes.
    pub store_answers: IntGauge,
    /// Changes in the store that were applied to the caches.
    pub store_changes: IntCounter,
    /// Effects recorded in the store that should be finished by now.
    pub effects_overdue: IntGauge,
}

/// Kind of a request, the label of durations. A histogram per operation would have too many series.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestKind {
    /// API call with JSON request and response.
    Api,
    /// List that the proxy filters.
    Search,
    /// Request or response with a streamed body.
    Artifact,
    /// File of MLflow's user interface.
    Static,
    /// Request that the proxy answers itself.
    Own,
    /// Request refused before it was sent to MLflow.
    Refused,
}

impl RequestKind {
    const ALL: [Self; 6] = [Self::Api, Self::Search, Self::Artifact, Self::Static, Self::Own, Self::Refused];

    /// Returns the label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Search => "search",
            Self::Artifact => "artifact",
            Self::Static => "static",
            Self::Own => "own",
            Self::Refused => "refused",
        }
    }
}

/// Hits and misses of one cache.
#[derive(Debug)]
pub struct Cache {
    pub hits: IntCounter,
    pub misses: IntCounter,
}

/// Requests of one operation by status class. Each counter is created on first use.
#[derive(Debug)]
struct Operation {
    name: &'static str,
    by_class: [OnceLock<GenericCounter<AtomicU64>>; CLASSES.len()],
}

impl Operation {
    fn new(name: &'static str) -> Self {
        Self { name, by_class: [const { OnceLock::new() }; CLASSES.len()] }
    }
}

impl Metrics {
    /// Creates the metrics. `operations` contains the names passed to [`Metrics::request`]; other names count as
    /// `other`.
    ///
    /// # Errors
    /// Two metrics have the same name, which a test rules out.
    #[expect(clippy::too_many_lines, reason = "one entry for each metric")]
    pub fn new(operations: impl IntoIterator<Item = &'static str>) -> Result<Self, prometheus::Error> {
        let mut r = Catalogue::default();
        // Reads `/proc` at each scrape. Elsewhere than on Linux there are no metrics of the process.
        #[cfg(target_os = "linux")]
        r.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let cache = r.counters("cache_total", "Cache look-ups", &["cache", "result"])?;
        let cache_of = |name| Cache {
            hits: cache.with_label_values(&[name, "hit"]),
            misses: cache.with_label_values(&[name, "miss"]),
        };
        let build = r.gauges("build_info", "1 for the version of the proxy", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            requests: r.counters("requests_total", "Requests answered", &["operation", "status"])?,
            operations: operations.into_iter().map(|name| (name, Operation::new(name))).collect(),
            other: Operation::new("other"),
            durations: r.histograms(
                "request_duration_seconds",
                "Time to the end of the response",
                "kind",
                RequestKind::ALL.map(RequestKind::as_str),
            )?,
            denials: r.counters("denials_total", "Requests refused with 403", &["reason"])?,
            authentication_failures: r.counters("authentication_failures_total", "Credentials refused", &["reason"])?,
            logins: r.counters("logins_total", "Sign-ins with a browser", &["provider", "outcome"])?,
            logouts: r.fixed("logouts_total", "Sign-outs of browsers, also those refused", "how", &LOGOUTS)?,
            session_refreshes: r.fixed(
                "session_refreshes_total",
                "Refreshes of sessions",
                "outcome",
                &SESSION_REFRESHES,
            )?,
            directory_syncs: r.counters(
                "directory_syncs_total",
                "Synchronisations with a provider's list of users",
                &["provider", "outcome"],
            )?,
            edge_refusals: r.counters("edge_refusals_total", "Requests refused as unsafe", &["reason"])?,
            body_refusals: r.fixed(
                "body_refusals_total",
                "Request bodies that were not read to their end",
                "reason",
                &BODY_REFUSALS,
            )?,
            upstream_errors: r.fixed(
                "upstream_errors_total",
                "Requests MLflow did not answer",
                "kind",
                &UPSTREAM_ERRORS,
            )?,
            upstream_holds: r.fixed(
                "upstream_holds_total",
                "Requests that waited while MLflow could not be reached",
                "outcome",
                &UPSTREAM_HOLDS,
            )?,
            upstream_holding: r.gauge("upstream_holding", "Requests that wait for MLflow")?,
            shadow_decisions: r.fixed(
                "shadow_decisions_total",
                "Requests that were decided under the shadow policy too",
                "outcome",
                &SHADOW_DECISIONS,
            )?,
            unknown_fields: r.counters(
                "unknown_fields_total",
                "Request fields that were not forwarded because no known MLflow has them",
                &["operation"],
            )?,
            policy_loaded: r.gauges(
                "policy_loaded",
                "1 if the present content of the policy file is in use",
                &["file"],
            )?,
            policy_loads: r.counters("policy_loads_total", "Contents of policy files read", &["file", "outcome"])?,
            // A vector without labels, so that the metric is absent when TLS is off.
            tls_certificate_loaded: r.gauges(
                "tls_certificate_loaded",
                "1 if the present TLS files are used for new connections",
                &[],
            )?,
            tls_certificate_not_after: r.gauges(
                "tls_certificate_not_after_seconds",
                "The end of the certificate that new connections get, in Unix time",
                &[],
            )?,
            upstream_info: r.gauges("upstream_info", "1 for the version of MLflow behind the proxy", &["version"])?,
            upstream_answers: r
                .gauge("upstream_answers", "1 if MLflow answered when it was last asked for its version")?,
            session_refreshes_paused: r.gauges(
                "session_refreshes_paused",
                "1 while the provider does not refresh sessions and only probes are sent",
                &["provider"],
            )?,
            oidc_fetches: r.counters(
                "oidc_fetches_total",
                "Requests for an identity provider's description or keys",
                &["issuer", "what", "outcome"],
            )?,
            oidc_keys_age: r.gauges(
                "oidc_keys_age_seconds",
                "Seconds since an identity provider's keys were fetched; -1 if never",
                &["issuer"],
            )?,
            unlisted_requests: r.counter("unlisted_requests_total", "Requests to routes that are not in the table")?,
            inspection_reserved: r
                .gauge("inspection_reserved_bytes", "Memory reserved for bodies that are being inspected")?,
            answers_reserved: r.gauge(
                "answers_reserved_bytes",
                "Memory reserved for MLflow's answers that are read whole, until they are sent",
            )?,
            connections: r.gauge("connections", "Open connections")?,
            connections_total: r.counter("connections_total", "Connections accepted")?,
            connections_refused: r.counter("connections_refused_total", "Connections closed: too many were open")?,
            connections_evicted: r
                .counter("connections_evicted_total", "Idle connections closed to make room for another one")?,
            tls_failures: r.counter("tls_failures_total", "TLS handshakes that failed")?,
            panics: r.counter("panics_total", "Panics while a request was processed")?,
            effects_failed: r.counter("effects_failed_total", "Effects of requests that could not be written")?,
            identities: cache_of("identities"),
            resources: cache_of("resources"),
            access_lines_dropped: r
                .counter("access_lines_dropped_total", "Access log lines dropped because too many were waiting")?,
            audit_entries_dropped: r.counter("audit_entries_dropped_total", "Denials missing in the audit log")?,
            audit_entries_deleted: r
                .counter("audit_entries_deleted_total", "Old entries deleted from the audit log")?,
            audit_deletions_failed: r
                .counter("audit_deletions_failed_total", "Failed attempts to delete old entries of the audit log")?,
            audit_rows: r.gauge("audit_rows", "Rows of the audit log")?,
            store_bytes: r.gauge("store_bytes", "Size of the store's database")?,
            // A vector without labels, so that the metric is absent when the store is SQLite, which announces nothing.
            store_listening: r.gauges(
                "store_listening",
                "1 while PostgreSQL announces changes of other processes",
                &[],
            )?,
            store_answers: r.gauge("store_answers", "1 if the store answered when it was last asked for changes")?,
            store_changes: r.counter(
                "store_changes_total",
                "Changes in the store, of all processes, that were applied to the caches",
            )?,
            effects_overdue: r.gauge(
                "effects_overdue",
                "Effects of requests, of all processes, that are not finished after five minutes",
            )?,
            catalogue: r,
        })
    }

    /// Counts a finished request. Takes about 100 ns.
    pub fn request(&self, operation: &str, kind: RequestKind, status: u16, took: Duration) {
        let operation = self.operations.get(operation).unwrap_or(&self.other);
        let class = usize::from(status / 100).saturating_sub(1).min(CLASSES.len() - 1);
        if let (Some(counter), Some(class)) = (operation.by_class.get(class), CLASSES.get(class)) {
            counter.get_or_init(|| self.requests.with_label_values(&[operation.name, class])).inc();
        }
        if let Some(histogram) = self.durations.get(kind as usize) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// Counts a 403 of the proxy. `reason` is from a fixed set.
    pub fn denied(&self, reason: &'static str) {
        self.denials.with_label_values(&[reason]).inc();
    }

    /// Counts a refused credential. `reason` is from a fixed set.
    pub fn authentication_failed(&self, reason: &'static str) {
        self.authentication_failures.with_label_values(&[reason]).inc();
    }

    /// Counts a browser sign-in that succeeded or failed. `provider` is a configured name, or `password`.
    pub fn signed_in(&self, provider: &str, outcome: &'static str) {
        self.logins.with_label_values(&[provider, outcome]).inc();
    }

    /// Counts a sign-out. `how` is from a fixed set.
    pub fn signed_out(&self, how: &'static str) {
        self.logouts.inc(how);
    }

    /// Counts a session refresh. `outcome` is from a fixed set.
    pub fn session_refreshed(&self, outcome: &'static str) {
        self.session_refreshes.inc(outcome);
    }

    /// Counts a pass through a provider's list of users. `outcome` is `ok` or from a fixed set of errors.
    pub fn directory_synced(&self, provider: &str, outcome: &'static str) {
        self.directory_syncs.with_label_values(&[provider, outcome]).inc();
    }

    /// Counts a request that was refused as unsafe, by the server or by `http`'s normaliser. `reason` is from a fixed
    /// set.
    pub fn edge_refused(&self, reason: &'static str) {
        self.edge_refusals.with_label_values(&[reason]).inc();
    }

    /// Counts a request body that was not read to its end. `reason` is from a fixed set.
    pub fn body_refused(&self, reason: &'static str) {
        self.body_refusals.inc(reason);
    }

    /// Counts a request that MLflow did not answer. `kind`: `connect`, `timeout`, `broken`...
    pub fn upstream_failed(&self, kind: &'static str) {
        self.upstream_errors.inc(kind);
    }

    /// Counts a decision under the shadow policy. `outcome`: `same`, `would_deny`, `would_allow`, `undecided`.
    pub fn shadow_decided(&self, outcome: &'static str) {
        self.shadow_decisions.inc(outcome);
    }

    /// Counts request fields that were removed. `operation` is a name of the route table.
    pub fn unknown_fields(&self, operation: &'static str, count: u64) {
        self.unknown_fields.with_label_values(&[operation]).inc_by(count);
    }

    /// Records whether the current content of a policy file is valid. `file`: `policy` or `shadow_policy`.
    pub fn policy_read(&self, file: &'static str, holds: bool) {
        self.policy_loaded.with_label_values(&[file]).set(holds.into());
        self.policy_loads.with_label_values(&[file, if holds { "loaded" } else { "refused" }]).inc();
    }

    /// Records whether the current TLS files are in use, and the expiry of the certificate in use, in Unix seconds.
    pub fn tls_certificate(&self, is_loaded: bool, not_after: Option<i64>) {
        self.tls_certificate_loaded.with_label_values::<&str>(&[]).set(is_loaded.into());
        match not_after {
            Some(seconds) => self.tls_certificate_not_after.with_label_values::<&str>(&[]).set(seconds),
            None => self.tls_certificate_not_after.reset(),
        }
    }

    /// Records whether the store announces changes of other processes.
    pub fn store_listens(&self, listens: bool) {
        self.store_listening.with_label_values::<&str>(&[]).set(listens.into());
    }

    /// Returns the counters of requests that waited for MLflow, by outcome.
    #[must_use]
    pub const fn upstream_holds(&self) -> &IntCounterVec {
        &self.upstream_holds.counters
    }

    /// Records whether refreshes of a provider's sessions are paused. `provider` is its configured name.
    pub fn session_refreshes_are(&self, provider: &str, paused: bool) {
        self.session_refreshes_paused.with_label_values(&[provider]).set(paused.into());
    }

    /// Records the version of MLflow, replacing an earlier one.
    pub fn upstream_is(&self, version: &str) {
        self.upstream_info.reset();
        self.upstream_info.with_label_values(&[version]).set(1);
    }

    /// Counts a request to an identity provider. `issuer` is its configured name; `what` and `outcome` are from fixed
    /// sets.
    pub fn oidc_fetched(&self, issuer: &str, what: &'static str, outcome: &'static str) {
        self.oidc_fetches.with_label_values(&[issuer, what, outcome]).inc();
    }

    /// Records the age of an identity provider's keys. `issuer` is its configured name.
    pub fn oidc_keys_are(&self, issuer: &str, age: Option<Duration>) {
        let age = age.map_or(-1, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        self.oidc_keys_age.with_label_values(&[issuer]).set(age);
    }

    /// Returns the description of every metric but those of the process, for docs/metrics.md.
    #[must_use]
    pub fn described(&self) -> &[Described] {
        &self.catalogue.described
    }

    /// Returns all metrics in Prometheus's text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Vec::with_capacity(16 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.catalogue.registry.gather(), &mut text) {
            tracing::warn!(%error, "metrics could not be written");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Label values that have a series from the start. In debug builds, an unknown value panics.
const LOGOUTS: [&str; 5] = ["user", "provider", "no_token", "refused", "replayed"];
const SESSION_REFRESHES: [&str; 5] = ["done", "kept", "ended", "lost", "store"];
const BODY_REFUSALS: [&str; 6] =
    ["body_too_large", "body_broken", "body_too_slow", "inspection_budget", "inspection_share", "answers_share"];
const UPSTREAM_ERRORS: [&str; 9] = [
    "connect",
    "timeout",
    "broken",
    "unreadable",
    "unexpected_status",
    "not_understood",
    "unwritable",
    "slow_body",
    "broken_body",
];
const UPSTREAM_HOLDS: [&str; 6] = ["released", "expired", "no_room", "no_share", "draining", "abandoned"];
const SHADOW_DECISIONS: [&str; 4] = ["same", "would_deny", "would_allow", "undecided"];

#[cfg(test)]
mod tests;
