//! The binary: allocator, TLS provider, and then the command line.

use std::process::ExitCode;

use mlflow_auth_proxy::cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Fails only when one was installed before; then that one is used.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::run(std::env::args_os())
}
