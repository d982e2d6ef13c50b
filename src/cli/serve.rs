//! `tollgate serve`: puts the parts together, and runs until it is told to stop.

use std::path::Path;

use super::Exit;
use crate::settings::{self, Ignored, RawSettings, Settings};
use crate::telemetry;

/// Serves until SIGTERM.
pub(super) fn run(raw: &RawSettings) -> anyhow::Result<Exit> {
    let settings = Settings::from_raw(raw, settings::environment, Path::exists)?;
    let _traces = telemetry::install(&settings.logs, settings.traces.as_ref())?;
    for Ignored { name, instead } in &settings.ignored {
        tracing::warn!(name, instead, "a setting has no effect");
    }
    Ok(Exit::Done)
}
