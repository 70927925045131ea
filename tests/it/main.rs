//! One binary for all integration tests: it links once.

mod architecture;
mod authorisation;
mod dependencies;
mod edge;
mod harness;
mod matrix;
