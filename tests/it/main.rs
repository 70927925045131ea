//! One binary for all integration tests: it links once.

mod architecture;
mod edge;
mod harness;
mod matrix;
