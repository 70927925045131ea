//! One binary for all integration tests: it links once.

mod architecture;
mod cli;
mod edge;
mod harness;
mod matrix;
