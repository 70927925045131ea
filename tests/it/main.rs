//! The integration tests: one binary, the whole proxy in this process, fakes on port 0.

mod edge;
mod harness;
