//! temporary
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() -> anyhow::Result<()> {
    let config = mlflow_auth_proxy::config::load(&mlflow_auth_proxy::config::Flags::default())
        .map_err(|p| anyhow::anyhow!("{p:?}"))?;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let running = mlflow_auth_proxy::app::start(config).await?;
        tokio::signal::ctrl_c().await?;
        running.drain().await;
        Ok(())
    })
}
