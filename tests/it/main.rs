//! One binary for all integration tests: it links once.

mod architecture;
mod authorisation;
mod edge;
mod harness;
mod matrix;
