//! `check-config`: prints every problem of the configuration, or the resulting settings.

use std::process::ExitCode;

use super::output;
use crate::app;
use crate::config::{Environment, Flags, Origin, load_from};

pub(super) async fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let (config, settings) = load_from(flags, &Environment::of_process())?;
    let policies = app::read_policies(&config).await?;
    for warning in app::warnings(&config, &policies) {
        output::error(&format!("warning: {warning}"));
    }
    let rows = settings.into_iter().map(|setting| {
        let origin = setting.origin.as_ref().map_or_else(|| "default".to_owned(), Origin::to_string);
        [setting.key, setting.value, origin]
    });
    output::table(["KEY", "VALUE", "ORIGIN"], rows)?;
    output::line("\nconfiguration is valid")?;
    Ok(ExitCode::SUCCESS)
}
