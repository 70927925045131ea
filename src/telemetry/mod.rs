//! What the people who run it see: log, access log, metrics, audit.
